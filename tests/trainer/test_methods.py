"""Each loss equals a published implementation or the paper's formula in float64, in value and gradient."""

import math

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, DCLLoss, NegativeCosineSimilarity, NTXentLoss
from torch.nn import functional

from trainer import method as methods
from trainer.methods import barlow_twins, simclr, simsiam
from vicinal import plugins
from vicinal.errors import InvalidArgumentError, InvalidConfigError
from vicinal.modalities.image.backbones import create

NAMES = plugins.names(methods.FAMILY)


def projections(count=2, batch=24, dimension=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, batch, dimension, generator=generator, dtype=torch.float64).requires_grad_()


def same(ours, theirs, z_VBD, *, tolerance=1e-6):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad(value, z_VBD, retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_is_lightlys_nt_xent(temperature):
    z_VBD = projections()
    ours = simclr.contrastive(z_VBD, temperature=temperature, decoupled=False)
    same(ours.total, NTXentLoss(temperature=temperature)(z_VBD[0], z_VBD[1]), z_VBD)


def test_decoupled_simclr_is_the_papers_formula():
    z_VBD = projections(batch=6)
    temperature = 0.2
    u = functional.normalize(z_VBD, dim=2)
    batch = u.shape[1]
    losses = []
    for k in range(2):
        for i in range(batch):
            positive = (u[k, i] @ u[1 - k, i]) / temperature
            negatives = [(u[k, i] @ u[v, j]) / temperature for v in range(2) for j in range(batch) if j != i]
            losses.append(-positive + torch.stack(negatives).exp().sum().log())
    ours = simclr.contrastive(z_VBD, temperature=temperature, decoupled=True)
    same(ours.total, torch.stack(losses).mean(), z_VBD)
    # lightly adds, where we average, the two directions; the rest is the same.
    same(ours.total, DCLLoss(temperature=temperature)(z_VBD[0], z_VBD[1]), z_VBD)


def test_simsiam_is_lightlys_negative_cosine():
    z_VBD, p_VBD = projections(), projections(seed=1)
    criterion = NegativeCosineSimilarity()
    theirs = 0.5 * (criterion(p_VBD[0], z_VBD[1].detach()) + criterion(p_VBD[1], z_VBD[0].detach()))
    ours = simsiam.negative_cosine(p_VBD, z_VBD).total
    same(ours, theirs, p_VBD)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(simsiam.negative_cosine(p_VBD, z_VBD).total, z_VBD)


def test_barlow_twins_is_lightlys():
    z_VBD = projections()
    ours = barlow_twins.cross_correlation(z_VBD, redundancy=5e-3)
    same(ours.total, BarlowTwinsLoss(lambda_param=5e-3)(z_VBD[0], z_VBD[1]), z_VBD, tolerance=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_makes_a_finite_step_with_gradients(name):
    torch.manual_seed(0)
    backbone = create("resnet10-w8", channels=3, image_size=16)
    cls = methods.load(name)
    context = methods.MethodContext(
        dimension=backbone.dimension, image_count=50, channels=3, image_size=16, batch_size=8, backbone=backbone
    )
    method = methods.create(name, {}, context)
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
    assert plugins.load(methods.FAMILY, name).__doc__.count("arXiv") >= 1 or name == "distillation"


def test_a_wrong_method_name_suggests_one():
    with pytest.raises(InvalidArgumentError, match="did you mean 'simclr'"):
        methods.load("simclar")


def test_a_wrong_option_suggests_one():
    context = methods.MethodContext(
        dimension=8, image_count=8, channels=3, image_size=16, batch_size=8, backbone=torch.nn.Identity()
    )
    with pytest.raises(InvalidConfigError, match="did you mean 'temperature'"):
        methods.create("simclr", {"temperatur": 0.1}, context)
