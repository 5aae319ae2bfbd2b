"""The readout: principal axes of the features of all stages, held to numpy, and what a run makes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from trainer import evaluate as evaluation
from trainer import readout
from trainer.config import BudgetConfig, PretrainConfig
from trainer.export import export, find_run
from trainer.onnx import TOLERANCE, export_onnx
from trainer.pretrain import pretrain, resume
from trainer.readout import POWER, ReadoutConfig, Sample, dimension_for, fit_readout, half_whitening, sample_size
from trainer.splits import EvaluationConfig, Split
from trainer.start import find
from trainer.watch import READOUT
from vicinal.cli import cli
from vicinal.encoder import Encoder, save
from vicinal.errors import CorruptArtifactError, InvalidArgumentError, InvalidConfigError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric

TINY = "resnet10-w8-grid"


def normalize(x_BCHW: torch.Tensor) -> torch.Tensor:
    return x_BCHW.float() / 255.0


def images(count: int, *, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def all_of(x_NCHW: np.ndarray) -> Sample:
    return Sample(x_NCHW, count=len(x_NCHW), seed=0)


def test_axes_are_principal_and_their_variances_are_evened_out() -> None:
    rng = np.random.default_rng(1)
    x_NF = (rng.standard_normal((20_000, 6)) * [8, 4, 2, 1, 0.5, 0.25] + 3).astype(np.float32)
    turn_FF = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    mean_F, weight_DF = half_whitening(x_NF @ turn_FF, dimension=4)
    y_ND = (x_NF @ turn_FF - mean_F) @ weight_DF.T
    std_D = y_ND.std(axis=0)
    wanted_D = np.array([8, 4, 2, 1]) ** (1 - POWER)
    np.testing.assert_allclose(std_D / std_D[0], wanted_D / wanted_D[0], rtol=0.03)
    np.testing.assert_allclose(np.square(y_ND).sum(axis=1).mean(), 1.0, rtol=0.01)
    correlation_DD = np.corrcoef(y_ND.T)
    np.testing.assert_allclose(correlation_DD, np.eye(4), atol=0.02)


def test_the_covariance_is_shrunk_as_ledoit_and_wolf_have_it() -> None:
    # The paper's estimator written out plainly, in float64.
    x_NF = np.random.default_rng(2).standard_normal((30, 12)) * np.linspace(1, 3, 12)
    x = x_NF - x_NF.mean(axis=0)
    s_FF = x.T @ x / 30
    level = np.trace(s_FF) / 12
    apart = np.square(s_FF - level * np.eye(12)).sum()
    chance = min(sum(np.square(np.outer(one, one) - s_FF).sum() for one in x) / 30**2, apart)
    values, axes = np.linalg.eigh(chance / apart * level * np.eye(12) + (1 - chance / apart) * s_FF)
    wanted_DF = (axes[:, ::-1] * values[::-1] ** (-POWER / 2)).T
    _, weight_DF = half_whitening(x_NF.astype(np.float32), dimension=12)
    cosine_D = (
        (weight_DF * wanted_DF).sum(axis=1) / np.linalg.norm(weight_DF, axis=1) / np.linalg.norm(wanted_DF, axis=1)
    )
    np.testing.assert_allclose(np.abs(cosine_D), 1.0, atol=1e-4)
    length_D = np.linalg.norm(weight_DF, axis=1) / np.linalg.norm(wanted_DF, axis=1)
    np.testing.assert_allclose(length_D / length_D[0], 1.0, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
def test_hardly_any_or_equal_images_give_finite_numbers(count: int) -> None:
    same = half_whitening(np.ones((count, 5), np.float32), dimension=5)
    few = half_whitening(np.random.default_rng(0).random((count, 5), np.float32), dimension=5)
    assert all(np.isfinite(part).all() for part in (*same, *few))


@pytest.mark.parametrize("size", [8, 28, 32, 65])
@pytest.mark.parametrize("name", [TINY, "resnet18-w8-s1", "resnet10-w8-white"])
def test_features_are_of_all_stages_and_the_readout_replaces_the_embedding(name: str, size: int) -> None:
    backbone = create(name, image_size=size)
    x_NCHW = images(40, size=size)
    features_BF = backbone.eval().features(normalize(torch.from_numpy(x_NCHW)))
    assert features_BF.shape == (40, backbone.feature_dimension) == (40, 8 * 72)
    fit_readout(backbone.train(), all_of(x_NCHW), normalize, ReadoutConfig(dimension=20))
    assert backbone.training
    y_BD = backbone.eval()(normalize(torch.from_numpy(x_NCHW)))
    assert y_BD.shape == (40, 20)
    assert backbone.dimension == 20
    mean_F, weight_DF = half_whitening(features_BF.detach().numpy(), dimension=20)
    np.testing.assert_allclose(y_BD.detach().numpy(), (features_BF.detach().numpy() - mean_F) @ weight_DF.T, atol=1e-4)


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_an_encoder_keeps_its_readout_in_its_files_and_in_onnx(tmp_path: Path, metric: Metric) -> None:
    backbone = create(TINY, image_size=28)
    fit_readout(backbone, all_of(images(64, size=28)), normalize, ReadoutConfig(dimension=24))
    size = Preprocessing(channels=3, height=28, width=28)
    architecture = {"name": TINY, "channels": 3, "image_size": 28, "readout": 24}
    save(tmp_path / "e", model=backbone, architecture=architecture, preprocessing=size, metric=metric, metadata={})
    encoder = Encoder.load(tmp_path / "e", device="cpu")
    assert encoder.dimension == 24
    assert encoder.untrained().dimension == create(TINY, image_size=28).dimension
    x_BCHW = images(9, size=28)
    wanted_BD = backbone.eval()(size.normalize(torch.from_numpy(x_BCHW))).detach().numpy()
    if metric is Metric.COSINE:
        wanted_BD = wanted_BD / np.linalg.norm(wanted_BD, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.embed(x_BCHW), wanted_BD, atol=1e-4)
    assert export_onnx(encoder, tmp_path / "e.onnx") <= TOLERANCE


def test_a_readout_that_the_network_cannot_have_is_damage(tmp_path: Path) -> None:
    size = Preprocessing(channels=3, height=16, width=16)
    architecture = {"name": "pixels", "channels": 3, "image_size": 16, "readout": 5}
    model = create("pixels", image_size=16)
    save(tmp_path / "e", model=model, architecture=architecture, preprocessing=size, metric=Metric.COSINE, metadata={})
    with pytest.raises(CorruptArtifactError, match="no readout"):
        Encoder.load(tmp_path / "e", device="cpu")


def test_the_random_row_of_an_evaluation_is_read_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(*args: Any) -> None:
        made.append(args[-1].dimension)
        fit_readout(*args)

    monkeypatch.setattr(evaluation, "fit_readout", counted)
    backbone = create(TINY, image_size=16)
    fit_readout(backbone, all_of(images(64)), normalize, ReadoutConfig(dimension=24))
    size = Preprocessing(channels=3, height=16, width=16)
    architecture = {"name": TINY, "channels": 3, "image_size": 16, "readout": 24}
    save(tmp_path / "e", model=backbone, architecture=architecture, preprocessing=size, metric=Metric.L2, metadata={})
    split = Split(x_NCHW=images(40), y_N=np.arange(40) % 2)
    config = EvaluationConfig(shots=(2,), draws=1, scratch_draws=1)
    found = evaluation.evaluate(Encoder.load(tmp_path / "e", device="cpu"), split, split, config)
    assert set(found["knn"]) == {"encoder", "random", "pixels"}
    assert made == [24]


@pytest.mark.parametrize(
    ("given", "count", "wanted"),
    [({}, 1000, 576), ({}, 999, 0), ({"dimension": 0}, 5000, 0), ({"dimension": 100}, 10, 100)],
)
def test_the_dimension_follows_from_network_and_images(given: dict[str, Any], count: int, wanted: int) -> None:
    config = PretrainConfig(budget=BudgetConfig(steps=1), **given)
    assert dimension_for(config, create(TINY), image_count=count) == wanted
    assert dimension_for(PretrainConfig(budget=BudgetConfig(steps=1)), create("resnet18"), image_count=5000) == 0


@pytest.mark.parametrize(
    ("views", "wanted"), [(0, 2_000), (20_000, 2_000), (120_000, 10_000), (600_000, 50_000), (10**9, 50_000)]
)
def test_images_that_are_read_out_follow_from_the_views_of_training(views: int, wanted: int) -> None:
    assert sample_size(views) == wanted


@pytest.mark.parametrize(("name", "dimension", "said"), [(TINY, 577, "1 to 576"), ("resnet18", 64, "no readout")])
def test_a_dimension_that_is_not_there_is_refused_before_images_are_decoded(
    name: str, dimension: int, said: str, folder: Path, tmp_path: Path
) -> None:
    config = PretrainConfig(budget=BudgetConfig(steps=1), dimension=dimension, encoder=name)
    store = Store.create(tmp_path / "w")
    with pytest.raises(InvalidArgumentError, match=said):
        pretrain(store, str(folder), config)
    assert not (store.root / "work" / "images").exists()
    with pytest.raises(InvalidConfigError, match="0 or more"):
        PretrainConfig(budget=BudgetConfig(steps=1), dimension=-1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    for number, x_CHW in enumerate(images(60)):
        (place / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x_CHW.transpose(1, 2, 0)).save(place / "ab"[number % 2] / f"{number:03}.png")
    return place


def test_a_run_reads_out_and_training_goes_on_from_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout, "LEAST_IMAGES", 60)
    store = Store.create(tmp_path / "w")
    config = PretrainConfig(budget=BudgetConfig(steps=4), encoder=TINY, batch_size=16, checkpoint_seconds=0)
    result = pretrain(store, str(folder), config)
    encoder = Encoder.load(store.path("encoders", result.encoder))
    assert encoder.dimension == 576
    assert encoder.architecture["readout"] == 576
    assert result.state["readout"].keys() == {"knn", "linear"}
    assert set(result.state["baselines"]) == {"pixels", "random", "random_readout"}
    # What training goes on from is the network, which gets a readout of its own.
    start = find("latest", encoder="auto", store=store)
    assert not [name for name in start.tensors if "readout" in name]
    assert start.readout == 576
    for given, wanted in ((None, 576), (32, 32), (0, 8 * 24)):
        further = PretrainConfig(budget=BudgetConfig(steps=2), weights="1", batch_size=16, dimension=given)
        again = Encoder.load(store.path("encoders", pretrain(store, str(folder), further).encoder))
        assert again.dimension == wanted
    # A run that was interrupted behind its last step is taken up again, and read out to the same.
    resumed = resume(store, result.run)
    assert Encoder.load(store.path("encoders", resumed.encoder)).fingerprint == encoder.fingerprint
    # Without it, what is exported is the network's own embedding.
    (find_run(store, result.run) / READOUT).unlink()
    assert Encoder.load(store.path("encoders", export(store, result.run))).dimension == 8 * 24


def test_the_command_takes_a_dimension(folder: Path, tmp_path: Path) -> None:
    words = [
        "pretrain",
        str(folder),
        "-w",
        str(tmp_path / "w"),
        "--steps",
        "2",
        "--encoder",
        TINY,
        "--set",
        "batch_size=16",
    ]
    done = CliRunner().invoke(cli, [*words, "--dimension", "10"])
    assert done.exit_code == 0, done.output
    assert Encoder.load(Store(tmp_path / "w").path("encoders", "latest")).dimension == 10
    refused = CliRunner().invoke(cli, [*words, "--dimension", "5000"])
    assert refused.exit_code != 0
    assert "1 to 576" in refused.output + str(refused.exception)
