"""Recipes resolve, say what came of them, and claim nothing that was not measured."""

import json
from importlib.resources import files

import pytest
from click.testing import CliRunner

from trainer import method, recipe
from trainer.commands import _settings, recipes
from trainer.config import PretrainConfig
from vicinal.config import from_mapping
from vicinal.errors import InvalidArgumentError
from vicinal.modalities.image.backbones import create


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_resolves_and_claims_only_what_was_measured(name):
    found = recipe.load(name)
    config = from_mapping(PretrainConfig, {"budget": {"minutes": 10.0}} | found.config, where=name)
    method.load(config.method)
    if config.encoder != "auto":
        create(config.encoder, image_size=32)
    assert found.title
    assert found.command.startswith("vicinal pretrain ")
    assert name in found.command
    for result in found.results:
        assert result.scores
        assert result.seconds > 0
        assert result.seeds >= 1
        assert all(0 < value <= 1 for value in result.scores.values())
        assert result.machine
        assert result.commit
    if config.device.startswith("cuda") and not found.results:
        assert "not run here" in found.note
        assert recipe.NOT_RUN in found.lines()


def test_every_recipe_is_listed_with_its_results():
    done = CliRunner().invoke(recipes, [], catch_exceptions=False)
    for name in recipe.names():
        assert name in done.output
    assert recipe.NOT_RUN in done.output
    values = json.loads(CliRunner().invoke(recipes, ["--json"], catch_exceptions=False).stdout)
    assert set(values) == set(recipe.names())
    one = CliRunner().invoke(recipes, ["gpu-cifar10"], catch_exceptions=False)
    assert '"batch_size": 512' in one.output
    assert len(recipe.names()) == len(
        [entry for entry in files("trainer.recipes").iterdir() if entry.name.endswith(".toml")]
    )


def test_an_unknown_recipe_suggests_one():
    with pytest.raises(InvalidArgumentError, match="did you mean 'gpu-cifar10'"):
        recipe.load("gpu-cifar")


def flags(**given):
    names = ("minutes", "epochs", "steps", "method", "encoder", "weights", "devices", "nodes", "seed", "compiled")
    return dict.fromkeys(names) | given


def test_flags_lie_over_the_file_over_the_recipe(tmp_path):
    (tmp_path / "c.toml").write_text('batch_size = 64\nmethod = "byol"\n')
    settings = _settings(
        flags(steps=5, compiled=False),
        recipe="gpu-cifar10",
        config_path=tmp_path / "c.toml",
        overrides=("method=moco",),
    )
    assert settings["budget"] == {"steps": 5}
    assert (settings["batch_size"], settings["method"], settings["encoder"]) == (64, "moco", "resnet18-w64-s1")
    assert settings["compile"] == "off"
    assert _settings(flags(), recipe="gpu-cifar10", config_path=None, overrides=())["budget"] == {"minutes": 30.0}
    assert _settings(flags(), recipe=None, config_path=None, overrides=()) == {"budget": {"minutes": 10.0}}
