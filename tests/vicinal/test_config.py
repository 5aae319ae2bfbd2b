"""Configuration: typed, strict, and helpful about names."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import pytest

from vicinal.config import from_mapping, read_toml, to_mapping, with_overrides
from vicinal.errors import InvalidConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    lr: Annotated[float, msgspec.Meta(gt=0)] = 0.1
    name: Literal["sgd", "muon"] = "sgd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    epochs: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    sizes: tuple[int, ...] = (24, 32)
    quiet: bool = False


def test_values_are_converted_and_round_trip():
    config = from_mapping(
        Config, {"epochs": "3", "optimizer": {"lr": "0.5", "name": "muon"}, "sizes": [8], "quiet": "true"}, where="x"
    )
    assert config == Config(epochs=3, optimizer=Optimizer(lr=0.5, name="muon"), sizes=(8,), quiet=True)
    assert from_mapping(Config, to_mapping(config), where="x") == config


def test_unknown_key_says_where_and_suggests():
    with pytest.raises(InvalidConfigError, match=r"unknown key 'optimizer\.lrr' \(a\.toml\); did you mean 'lr'\?"):
        from_mapping(Config, {"optimizer": {"lrr": 1}}, where="a.toml")


@pytest.mark.parametrize(
    "mapping", [{"epochs": "many"}, {"optimizer": {"lr": -1}}, {"optimizer": {"name": "adam"}}, {"optimizer": 3}]
)
def test_wrong_value_is_one_error(mapping):
    with pytest.raises(InvalidConfigError, match=r"wrong value \(--set\)"):
        from_mapping(Config, mapping, where="--set")


def test_overrides_lie_over_the_mapping_and_leave_it_alone():
    base = {"optimizer": {"lr": 1}}
    result = with_overrides(base, ["optimizer.name=muon", "sizes=[1, 2]", "epochs = 4"])
    assert result == {"optimizer": {"lr": 1, "name": "muon"}, "sizes": [1, 2], "epochs": 4}
    assert base == {"optimizer": {"lr": 1}}


@pytest.mark.parametrize("text", ["epochs", "=3", "optimizer.lr.deep=1"])
def test_malformed_override_is_named(text):
    with pytest.raises(InvalidConfigError, match="--set"):
        with_overrides({"optimizer": {"lr": 1}}, [text])


def test_toml_errors_name_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("a = 1")
    assert read_toml(path) == {"a": 1}
    path.write_text("a = ")
    with pytest.raises(InvalidConfigError, match=r"c\.toml is not TOML"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfigError, match=r"c\.toml"):
        read_toml(path)
    with pytest.raises(InvalidConfigError, match=r"missing\.toml"):
        read_toml(tmp_path / "missing.toml")
