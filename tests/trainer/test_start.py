"""A run can begin with weights: of an own encoder, of a file, of torchvision."""

import json
from typing import Any

import pytest
import torch
import torchvision.models
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from trainer import pretrain as stage
from trainer import start
from trainer.commands import export as export_command
from trainer.commands import pretrain as pretrain_command
from trainer.config import BudgetConfig, PretrainConfig
from trainer.export import find_run
from trainer.monitor import Accuracy, OnlineMonitor
from trainer.watch import Watch
from vicinal.encoder import Encoder
from vicinal.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    InvalidArgumentError,
    InvalidConfigError,
    UnavailableError,
)
from vicinal.modalities.image import weights
from vicinal.modalities.image.backbones import create
from vicinal.store import Store

SETTLED: dict[str, Any] = {"precision": "float32", "channels_last": True, "threads": 1, "workers": 1}
TINY: dict[str, Any] = {"batch_size": 32, "resolutions": (1.0,), **SETTLED}


def config(steps=3, **changes):
    return PretrainConfig(budget=BudgetConfig(steps=steps), **(TINY | changes))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "workspace")


@pytest.fixture
def first(store, drawings):
    """The workspace with one encoder of another size than the images suggest."""
    stage.pretrain(store, str(drawings), config(encoder="resnet10-w8", image_size=20))
    return store


def test_training_goes_on_from_an_own_encoder(first, drawings):
    said: list[str] = []
    listener = stage.Listener(said=said.append, reading=lambda *_: None, report=lambda _: None)
    old = Encoder.load(first.path("encoders", "1"))
    result = stage.pretrain(first, str(drawings), config(weights="000001"), listener=listener)
    new = Encoder.load(first.path("encoders", result.encoder))
    assert (new.architecture, new.preprocessing) == (old.architecture, old.preprocessing)
    assert new.fingerprint != old.fingerprint
    begun = load_file(find_run(first, result.run) / start.START)
    assert all(torch.equal(begun[name], tensor) for name, tensor in old.model.state_dict().items())
    facts = new.manifest.body["metadata"]
    assert facts["config"]["weights"] == "000001"
    assert facts["config"]["backbone_rate"] == 0.01
    assert facts["config"]["optimizer"]["warmup"] == 0.1
    assert set(result.state["baselines"]) == {"pixels", "random", "start"}
    assert "from the weights of encoder 000001" in said[0]
    assert "the weights it starts from" in said[1]


def test_it_is_said_when_the_start_was_better(first, drawings, monkeypatch):
    monkeypatch.setattr(OnlineMonitor, "pixels", lambda _: Accuracy(knn=0.1, linear=0.1))
    monkeypatch.setattr(OnlineMonitor, "random", lambda *_: Accuracy(knn=0.1, linear=0.1))
    accuracies = iter([0.9, *[0.5] * 9])
    monkeypatch.setattr(OnlineMonitor, "encoder", lambda *_: Accuracy(knn=next(accuracies), linear=0.5))
    result = stage.pretrain(first, str(drawings), config(1, weights="latest"))
    assert "the weights it starts from were better, kNN 90.0% against 50.0%" in result.advice
    assert "vicinal export --weights latest --backbone resnet10-w8 --image-size 20" in result.advice
    monkeypatch.setattr(OnlineMonitor, "random", lambda *_: Accuracy(knn=0.7, linear=0.1))
    result = stage.pretrain(first, str(drawings), config(1, encoder="resnet10-w8"))
    assert "better is: random encoder, kNN 70.0% against 50.0%" in result.advice


def test_a_rate_of_nothing_leaves_the_weights(first, drawings):
    still = config(weights="latest", optimizer={"lr": 0.0, "adam_lr": 0.0}, backbone_rate=1.0)
    stage.pretrain(first, str(drawings), still)
    old, new = (Encoder.load(first.path("encoders", version)).model for version in ("1", "2"))
    assert all(torch.equal(value, dict(new.named_parameters())[name]) for name, value in old.named_parameters())


def test_frozen_stages_are_not_trained(first, drawings):
    stage.pretrain(first, str(drawings), config(weights="latest", frozen_stages=2, method="moco"))
    old, new = (Encoder.load(first.path("encoders", version)).model.state_dict() for version in ("1", "2"))
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {"body.stem.weight", "body.norm.running_mean", "body.blocks.0.conv1.weight"} <= same
    assert "body.last.0.conv1.weight" not in same
    with pytest.raises(InvalidConfigError, match="frozen_stages needs --weights"):
        config(frozen_stages=1)
    with pytest.raises(InvalidArgumentError, match="has 5 stages"):
        stage.pretrain(first, str(drawings), config(weights="latest", frozen_stages=9))


def test_a_run_that_died_before_its_first_checkpoint_begins_with_its_weights(first, drawings, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", die)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stage.pretrain(first, str(drawings), config(weights="latest"))
    resumed = stage.resume(first, "latest")
    whole = stage.pretrain(first, str(drawings), config(weights="000001"))
    ends = [load_file(find_run(first, run) / "last.safetensors") for run in (resumed.run, whole.run)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    run = find_run(first, resumed.run)
    (run / start.START).write_bytes(b"damaged")
    with pytest.raises(CorruptArtifactError, match="began with, cannot be read"):
        stage.resume(first, run.name)


def test_a_safetensors_file_fits_the_encoder_that_is_named(store, drawings, tmp_path):
    torch.manual_seed(5)
    state = create("resnet10-w8", channels=3).state_dict()
    path = tmp_path / "w.safetensors"
    save_file({name.removeprefix("body."): tensor.half() for name, tensor in state.items()}, path)
    result = stage.pretrain(store, str(drawings), config(1, weights=str(path), encoder="resnet10-w8"))
    made = Encoder.load(store.path("encoders", result.encoder))
    assert made.preprocessing.channels == 3, "as the weights, though the images are gray"
    begun = load_file(find_run(store, result.run) / start.START)
    torch.testing.assert_close(begun["body.stem.weight"], state["body.stem.weight"], rtol=1e-3, atol=1e-3)
    with pytest.raises(InvalidArgumentError, match="does not say what it is of"):
        stage.pretrain(store, str(drawings), config(weights=str(path)))
    with pytest.raises(InvalidArgumentError, match="not of encoder 'resnet10-w16'"):
        stage.pretrain(store, str(drawings), config(weights=str(path), encoder="resnet10-w16"))


def test_torchvisions_weights_bring_their_normalisation(store, drawings, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None)
    file = weights.published("ResNet18_Weights.IMAGENET1K_V1").entry.url.rsplit("/", 1)[1]
    (tmp_path / "hub" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "hub" / "checkpoints" / file)
    found = start.find("ResNet18_Weights.IMAGENET1K_V1", encoder="auto", store=store)
    assert (found.encoder, found.channels, found.normalization) == (
        "resnet18",
        3,
        (weights.IMAGENET_MEAN, weights.IMAGENET_STD),
    )
    result = stage.pretrain(store, f"{drawings}?limit=8", config(1, weights="ResNet18_Weights.IMAGENET1K_V1"))
    made = Encoder.load(store.path("encoders", result.encoder))
    assert made.architecture == {"name": "resnet18", "channels": 3, "image_size": 16}
    assert made.preprocessing.mean == weights.IMAGENET_MEAN
    begun = load_file(find_run(store, result.run) / start.START)
    assert torch.equal(begun["body.conv1.weight"], network.conv1.weight)
    with pytest.raises(InvalidArgumentError, match="leave --encoder out"):
        start.find("ResNet18_Weights.IMAGENET1K_V1", encoder="resnet50", store=store)


def test_weights_become_an_encoder_as_they_are(tmp_path):
    state = create("efficientnet-lite0").state_dict()
    save_file({name.removeprefix("body."): tensor for name, tensor in state.items()}, tmp_path / "w.safetensors")
    words = ["-w", str(tmp_path / "w"), "--weights", str(tmp_path / "w.safetensors"), "--json"]
    words += ["--backbone", "efficientnet-lite0", "--image-size", "64"]
    done = CliRunner().invoke(export_command, words, catch_exceptions=False)
    assert json.loads(done.stdout) == {"encoder": "000001"}
    made = Encoder.load(tmp_path / "w" / "encoders" / "000001")
    assert made.preprocessing.height == 64
    assert made.preprocessing.mean[0] * 255 == pytest.approx(127)
    assert all(torch.equal(made.model.state_dict()[name], tensor) for name, tensor in state.items())
    done = CliRunner().invoke(export_command, [*words, "--run", "latest"])
    assert done.exit_code == 2


def test_weights_that_are_not_there_are_named(first, tmp_path):
    def find(text, encoder="auto"):
        return start.find(text, encoder=encoder, store=first)

    with pytest.raises(ArtifactNotFoundError, match="encoders/000009"):
        find("9")
    with pytest.raises(InvalidArgumentError, match="are not there: name an encoder"):
        find("somewhere")
    with pytest.raises(InvalidArgumentError, match="cannot read the weights"):
        find("missing.safetensors", "resnet18")
    assert find(str(first.path("encoders", "1"))).side == 20


def test_the_command_takes_weights_and_says_in_one_sentence_when_they_cannot_be_had(
    first, drawings, tmp_path, monkeypatch
):
    workspace = ["-w", str(first.root), "--json", "--steps", "1", "--set", "batch_size=32"]
    done = CliRunner().invoke(
        pretrain_command, [str(drawings), "--weights", "latest", *workspace], catch_exceptions=False
    )
    assert json.loads(done.stdout)["encoder"] == "000002"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = CliRunner().invoke(pretrain_command, [str(drawings), "--weights", "ResNet18_Weights.DEFAULT", *workspace])
    assert isinstance(done.exception, UnavailableError)
