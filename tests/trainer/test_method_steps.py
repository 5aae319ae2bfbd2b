"""Every method makes whole steps, with as many views as it takes, and refuses wrong options."""

import dataclasses
import math

import pytest
import torch

from trainer import method as methods
from vicinal import plugins
from vicinal.encoder import save
from vicinal.errors import InvalidArgumentError, InvalidConfigError
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.types import Metric

NAMES = plugins.names(methods.FAMILY)


def teacher(path):
    architecture = {"name": "resnet10-w16", "channels": 1, "image_size": 24}
    size = Preprocessing(channels=1, height=24, width=24)
    model = create("resnet10-w16", channels=1, image_size=24)
    save(path / "t", model=model, architecture=architecture, preprocessing=size, metric=Metric.COSINE, metadata={})
    return str(path / "t")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_makes_a_finite_step_with_gradients(name, tmp_path):
    torch.manual_seed(0)
    backbone = create("resnet10-w8", channels=3, image_size=16)
    cls = methods.load(name)
    context = methods.MethodContext(
        dimension=backbone.dimension, image_count=50, channels=3, image_size=16, batch_size=8, backbone=backbone
    )
    method = methods.create(name, {"teacher": teacher(tmp_path)} if name == "distillation" else {}, context)
    views = methods.Views(
        full=tuple(torch.randn(8, 3, 16, 16) for _ in range(cls.views.count)),
        local=tuple(torch.randn(8, 3, 8, 8) for _ in range(cls.views.local_count)),
        plain_BCHW=torch.randn(8, 3, 16, 16) if cls.needs_plain else None,
        rows_B=torch.arange(8),
        generator=torch.Generator().manual_seed(0),
    )
    output = method.step(backbone, views)
    assert math.isfinite(float(output.loss.total.detach()))
    assert output.loss.terms
    assert all(x_BD.shape == (8, backbone.dimension) and not x_BD.requires_grad for x_BD in output.embeddings)
    output.loss.total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())
    method.after_step(backbone, progress=0.5)
    assert cls.__doc__
    assert "arXiv:" in (plugins.load(methods.FAMILY, name).__doc__ or "")


@pytest.mark.parametrize("name", [name for name in NAMES if methods.load(name).any_views])
def test_further_views_and_smaller_ones_change_the_loss(name):
    torch.manual_seed(0)
    backbone = create("resnet10-w8", channels=3, image_size=16)
    context = methods.MethodContext(
        dimension=backbone.dimension, image_count=50, channels=3, image_size=16, batch_size=8, backbone=backbone
    )
    method = methods.create(name, {}, context)
    full, local = (tuple(torch.randn(8, 3, side, side) for _ in range(3)) for side in (16, 8))

    def loss(full_count, local_count):
        views = methods.Views(
            full=full[:full_count],
            local=local[:local_count],
            rows_B=torch.arange(8),
            generator=torch.Generator().manual_seed(0),
        )
        return float(method.step(backbone, views).loss.total.detach())

    found = [loss(2, 0), loss(3, 0), loss(3, 1), loss(2, 3)]
    assert all(math.isfinite(value) for value in found)
    assert len(set(found)) == 4


def test_a_wrong_method_name_suggests_one():
    with pytest.raises(InvalidArgumentError, match="did you mean 'simclr'"):
        methods.load("simclar")


def test_a_wrong_option_suggests_one():
    context = methods.MethodContext(
        dimension=8, image_count=8, channels=3, image_size=16, batch_size=8, backbone=torch.nn.Identity()
    )
    with pytest.raises(InvalidConfigError, match="did you mean 'temperature'"):
        methods.create("simclr", {"temperatur": 0.1}, context)


def numbers():
    for name in NAMES:
        for option in dataclasses.fields(methods.load(name).options_type):
            if isinstance(option.default, int | float) and not isinstance(option.default, bool):
                yield name, option.name, -1 if isinstance(option.default, int) else -0.5
                yield name, option.name, 1 << 40 if isinstance(option.default, int) else math.inf


@pytest.mark.parametrize(("name", "option", "value"), list(numbers()))
def test_numbers_that_no_method_works_with_are_refused_by_name(name, option, value):
    backbone = create("resnet10-w8", channels=3, image_size=16)
    context = methods.MethodContext(
        dimension=backbone.dimension, image_count=50, channels=3, image_size=16, batch_size=8, backbone=backbone
    )
    with pytest.raises(InvalidConfigError, match=f"method_options.{option} is {value}, wanted a number from"):
        methods.create(name, {option: value}, context)


def test_simclr_is_drawn_to_neighbors_late_and_never_by_a_queue_that_is_not_full():
    torch.manual_seed(0)
    backbone = create("resnet10-w8", channels=3, image_size=16).eval()
    context = methods.MethodContext(
        dimension=backbone.dimension, image_count=50, channels=3, image_size=16, batch_size=8, backbone=backbone
    )
    method = methods.create("simclr", {"queue": 16, "neighbor_begin": 0.5}, context).eval()

    def drawn(step):
        views = methods.Views(
            full=tuple(torch.randn(8, 3, 16, 16) for _ in range(4)),
            rows_B=torch.arange(8 * step, 8 * step + 8),
            generator=torch.Generator().manual_seed(0),
        )
        loss = method.step(backbone, views).loss
        return not torch.isclose(loss.total, loss.terms["alignment"] + loss.terms["uniformity"])

    method.after_step(backbone, progress=1.0)
    assert [drawn(step) for step in range(3)] == [False, False, True]
    method.after_step(backbone, progress=0.5)
    assert not drawn(3)
