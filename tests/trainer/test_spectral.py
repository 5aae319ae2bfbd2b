"""Spectral coordinates: held to the eigenvectors of the whole matrix, and what a readout learns of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainer import readout, spectral
from trainer.onnx import TOLERANCE, export_onnx
from trainer.readout import ReadoutConfig, Sample, fit_readout, shape_of, spectral_for, zoomed
from trainer.spectral import learn_coordinates, spectral_coordinates
from vicinal.encoder import Encoder, save
from vicinal.errors import InvalidArgumentError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.modalities.image.readout import SpectralReadout
from vicinal.types import Metric


def clouds(
    count: int, *, groups: int = 5, dimension: int = 12, seed: int = 0, spread: float = 0.45
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns unit vectors around a few centres, and which centre each is of."""
    generator = torch.Generator().manual_seed(seed)
    centers_GD = torch.randn(groups, dimension, generator=torch.Generator().manual_seed(99))
    group_N = torch.arange(count) % groups
    x_ND = centers_GD[group_N] + spread * torch.randn(count, dimension, generator=generator)
    return functional.normalize(x_ND, dim=1), group_N


def found(x_ND: torch.Tensor, *, count: int) -> np.ndarray:
    return spectral_coordinates(x_ND, count=count, generator=torch.Generator().manual_seed(0)).numpy()


def by_the_whole_matrix(x_ND: torch.Tensor, *, count: int) -> np.ndarray:
    """The definition written out plainly, in float64."""
    x = x_ND.double().numpy()
    sim = x @ x.T
    np.fill_diagonal(sim, -2)
    w = np.zeros_like(sim)
    for row, near in enumerate(np.argsort(-sim, axis=1)[:, : spectral.NEIGHBORS]):
        w[row, near] = np.exp((sim[row, near] - 1) / 0.2)
    w = (w + w.T) / 2
    degree = w.sum(axis=1)
    values, vectors = np.linalg.eigh(w / np.sqrt(np.outer(degree, degree)))
    z = vectors[:, ::-1][:, 1 : count + 1] * values[::-1][1 : count + 1] ** 4 / np.sqrt(degree)[:, None]
    unit_NS: np.ndarray = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit_NS


def test_coordinates_are_eigenvectors_of_the_random_walk() -> None:
    x_ND, _ = clouds(400, spread=1.0)
    ours_NS, wanted_NS = found(x_ND, count=4), by_the_whole_matrix(x_ND, count=4)
    # Eigenvectors have no sign of their own.
    signs_S = np.sign((ours_NS * wanted_NS).sum(axis=0))
    np.testing.assert_allclose(ours_NS * signs_S, wanted_NS, atol=2e-3)


def test_images_of_a_group_lie_together() -> None:
    x_ND, group_N = clouds(600)
    z_NS = found(x_ND, count=8)
    sim_NN = z_NS @ z_NS.T
    same_NN = (group_N[:, None] == group_N).numpy()
    assert sim_NN[same_NN].mean() > sim_NN[~same_NN].mean() + 0.5


def test_neighbors_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks of 7 of 64 images: some that are shorter than the neighbors are many, and a last one of a single image.
    monkeypatch.setattr(spectral, "_ROWS", 7)
    x_ND, _ = clouds(64, spread=1.0)
    cosines_NK, others_NK = spectral._nearest(x_ND, count=9)
    sim_NN = (x_ND @ x_ND.t()).fill_diagonal_(-2)
    wanted = sim_NN.topk(9, dim=1)
    assert torch.equal(others_NK, wanted.indices)
    torch.testing.assert_close(cosines_NK, wanted.values)


@pytest.mark.parametrize("count", [3, 30])
def test_equal_and_very_few_images_give_finite_numbers(count: int) -> None:
    for x_ND in (torch.ones(count, 5) / 5**0.5, torch.zeros(count, 5), clouds(count)[0]):
        assert np.isfinite(found(x_ND, count=2)).all()


def test_new_images_are_told_to_lie_in_their_groups() -> None:
    x_NF, _ = clouds(1500, dimension=40)
    module = SpectralReadout(40, dimension=40, spectral=8)
    with torch.no_grad():
        module.axes.weight.copy_(torch.eye(32, 40))
        module.axes.bias.zero_()
    x_NA = module.project(x_NF).detach()
    learn_coordinates(module, x_NA[None], seed=0)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    new_QF, group_Q = clouds(300, dimension=40, seed=1)
    z_QS = module.locate(module.project(new_QF))
    sim_QQ = (z_QS @ z_QS.t()).numpy()
    same_QQ = (group_Q[:, None] == group_Q).numpy()
    assert sim_QQ[same_QQ].mean() > sim_QQ[~same_QQ].mean() + 0.5


@pytest.mark.parametrize(
    ("dimension", "images", "wanted"),
    [(768, 1000, 48), (768, 999, 0), (128, 5000, 8), (127, 5000, 0), (2304, 5000, 48)],
)
def test_how_many_there_are_follows_from_dimension_and_images(dimension: int, images: int, wanted: int) -> None:
    assert spectral_for(dimension, image_count=images) == wanted


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.INNER_PRODUCT])
def test_an_encoder_keeps_them_in_its_files_and_in_onnx(
    tmp_path: Path, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout, "LEAST_IMAGES", 200)
    x_NCHW = np.random.default_rng(0).integers(0, 256, (200, 3, 16, 16), dtype=np.uint8)
    size = Preprocessing(channels=3, height=16, width=16)
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = create("resnet10-w8-grid", image_size=16)
        some = Sample(x_NCHW, count=200, seed=3)
        fit_readout(backbone, some, size.normalize, ReadoutConfig(dimension=160, seed=3))
        made.append(backbone)
    assert made[0].dimension == 160
    assert isinstance(made[0].readout, SpectralReadout)
    # The same images and seed give the same encoder, bit for bit.
    states = [backbone.state_dict() for backbone in made]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert shape_of(made[0].readout.state_dict()) == {"readout": 160, "spectral": 10}
    architecture = {"name": "resnet10-w8-grid", "channels": 3, "image_size": 16, "readout": 160, "spectral": 10}
    place = tmp_path / "e"
    save(place, model=made[0], architecture=architecture, preprocessing=size, metric=metric, metadata={})
    encoder = Encoder.load(place, device="cpu")
    y_BD = encoder.embed(x_NCHW[:9])
    np.testing.assert_allclose(np.linalg.norm(y_BD, axis=1), 1.0, atol=1e-5)
    # 0.65 of the axes' length.
    np.testing.assert_allclose(np.square(y_BD[:, -10:]).sum(axis=1), 0.4225 / 1.4225, atol=1e-5)
    assert encoder.untrained().readout is None
    assert export_onnx(encoder, place.with_suffix(".onnx")) <= TOLERANCE


def test_mirrored_images_have_the_coordinates_of_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "LEAST_IMAGES", 200)
    # Patches of colour, as noise looks like nothing when it is enlarged; dark on one of their sides.
    x_NCHW = np.random.default_rng(0).integers(0, 256, (400, 3, 4, 4), dtype=np.uint8).repeat(4, 2).repeat(4, 3)
    x_NCHW[::2, :, :, :8] //= 4
    size = Preprocessing(channels=3, height=16, width=16)
    apart = {}
    for mirror in (False, True):
        torch.manual_seed(0)
        backbone = create("resnet10-w8-grid", image_size=16).eval()
        some = Sample(x_NCHW, count=400, seed=0)
        fit_readout(backbone, some, size.normalize, ReadoutConfig(dimension=160, mirror=mirror))
        with torch.inference_mode():
            found = [backbone(size.normalize(torch.from_numpy(x))) for x in (x_NCHW, x_NCHW[..., ::-1].copy())]
        z_NS, other_NS = (functional.normalize(x_ND[:, -10:], dim=1) for x_ND in found)
        apart[mirror] = float((z_NS - other_NS).norm(dim=1).mean())
        assert not backbone.training
    assert apart[True] < 0.5 * apart[False]


def test_zooming_keeps_the_size_and_shows_the_middle() -> None:
    x_BCHW = torch.zeros(1, 1, 32, 32)
    x_BCHW[..., 3:-3, 3:-3] = 1
    assert torch.equal(zoomed(x_BCHW), torch.ones(1, 1, 32, 32))
    assert zoomed(torch.zeros(2, 3, 8, 20)).shape == (2, 3, 8, 20)


def test_more_spectral_coordinates_than_dimensions_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="spectral is 24, wanted 0 to 23"):
        create("resnet10-w8-grid", readout=24, spectral=24)
    with pytest.raises(InvalidArgumentError, match="dimension is 0"):
        create("resnet10-w8-grid", spectral=8)


def test_a_sample_is_drawn_by_its_seed_in_batches() -> None:
    x_NCHW = np.arange(1500, dtype=np.uint16).view(np.uint8).reshape(1500, 2, 1, 1)
    parts = list(Sample(x_NCHW, count=1200, seed=4))
    assert [len(part) for part in parts] == [512, 512, 176]
    drawn = np.concatenate(parts).reshape(1200, 2).view(np.uint16).ravel()
    assert len(set(drawn.tolist())) == 1200
    assert len(Sample(x_NCHW, count=1200, seed=4)) == 1200
    part = np.concatenate(list(Sample(x_NCHW, count=1200, seed=4).part(300))).reshape(300, 2).view(np.uint16).ravel()
    assert set(part.tolist()) < set(drawn.tolist())
    assert len(Sample(x_NCHW, count=1200, seed=4).part(9999)) == 1200
    again, other = (np.concatenate(list(Sample(x_NCHW, count=1200, seed=seed))) for seed in (4, 5))
    np.testing.assert_array_equal(again, np.concatenate(parts))
    assert not np.array_equal(other, again)
    assert sum(len(part) for part in Sample(x_NCHW, count=5000, seed=4)) == 1500
