"""The demo's parts that need no server: finding images, keeping what is not its own, judging replies."""

import pytest

from tests.support.data import fashion_mnist
from vicinal.demo import images
from vicinal.demo.commands import prepare
from vicinal.errors import InvalidArgumentError, InvalidCorpusError


def test_named_folder_is_the_only_place_that_is_looked_at(tmp_path):
    with pytest.raises(InvalidCorpusError, match="dataset-fashion-mnist"):
        images.find(tmp_path, cache=tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    assert images.find(tmp_path, cache=tmp_path).folder == tmp_path


def test_debian_package_is_found(tmp_path):
    assert images.find(None, cache=tmp_path).folder == fashion_mnist()


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "absent")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [f"file://{tmp_path}/no-such-mirror/"])
    with pytest.raises(InvalidCorpusError, match=r"could not be downloaded .*make demo IMAGES=FOLDER"):
        images.find(None, cache=tmp_path / "cache")


def test_an_earlier_download_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "DEBIAN", tmp_path / "absent")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert images.find(None, cache=tmp_path).found == "torchvision's download"


def test_prepare_remakes_a_demo_and_refuses_anything_else(tmp_path):
    prepare(tmp_path / "demo")
    (tmp_path / "demo" / "old").write_text("x")
    prepare(tmp_path / "demo")
    assert not (tmp_path / "demo" / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    with pytest.raises(InvalidArgumentError, match="no demo made"):
        prepare(tmp_path / "mine")
    assert (tmp_path / "mine" / "x").exists()
