"""Each loss equals a published implementation or the paper's formula in float64, in value and gradient."""

import pytest
import torch
from lightly.loss import (
    BarlowTwinsLoss,
    DCLLoss,
    DINOLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)
from torch.nn import functional

from trainer import method as methods
from trainer.methods import (
    barlow_twins,
    byol,
    corinfomax,
    dino,
    distillation,
    exemplar_cnn,
    mae,
    mixed_barlow_twins,
    moco,
    simclr,
    simsiam,
    swav,
    vicreg,
)
from trainer.queue import Queue
from trainer.teacher import Teacher, rising
from vicinal.errors import InvalidConfigError


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


@pytest.mark.parametrize(("count", "decoupled"), [(2, True), (3, True), (4, True), (3, False)])
def test_simclr_is_the_papers_formula_for_every_pair_of_views(count, decoupled):
    z_VBD = projections(count=count, batch=6)
    temperature = 0.2
    u = functional.normalize(z_VBD, dim=2)
    everyone = [(v, j) for v in range(count) for j in range(u.shape[1])]
    losses = []
    for k, i in everyone:
        left_out = [(v, j) for v, j in everyone if (j == i if decoupled else (v, j) == (k, i))]
        spread = [(u[k, i] @ u[v, j]) / temperature for v, j in everyone if (v, j) not in left_out]
        positives = [(u[k, i] @ u[v, i]) / temperature for v in range(count) if v != k]
        losses += [torch.stack(spread).exp().sum().log() - positive for positive in positives]
    ours = simclr.contrastive(z_VBD, temperature=temperature, decoupled=decoupled)
    same(ours.total, torch.stack(losses).mean(), z_VBD)


def test_a_share_of_simclrs_alignment_is_with_neighbors():
    z_VBD, near_BD, temperature = projections(count=3, batch=4), projections(seed=1, batch=4)[0].detach(), 0.2
    u, near_BD = functional.normalize(z_VBD, dim=2), functional.normalize(near_BD, dim=1)
    loss = simclr.contrastive(z_VBD, temperature=temperature, decoupled=True)
    own = torch.stack([(u[v, i] @ u[w, i]) for i in range(4) for v in range(3) for w in range(3) if v != w]).mean()
    near = torch.stack([u[v, i] @ near_BD[i] for i in range(4) for v in range(3)]).mean()
    wanted = loss.terms["uniformity"] - (0.75 * own + 0.25 * near) / temperature
    ours = simclr.drawn_to(loss, z_VBD, near_BD, weight=torch.tensor(0.25), temperature=temperature)
    same(ours.total, wanted, z_VBD)
    nothing = simclr.drawn_to(loss, z_VBD, near_BD, weight=torch.tensor(0.0), temperature=temperature)
    assert torch.equal(nothing.total, loss.total)


def test_decoupled_simclr_is_lightlys():
    z_VBD, temperature = projections(batch=6), 0.2
    ours = simclr.contrastive(z_VBD, temperature=temperature, decoupled=True)
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


def test_vicreg_is_lightlys():
    z_VBD = projections()
    ours = vicreg.variance_invariance_covariance(z_VBD, vicreg.Options())
    same(ours.total, VICRegLoss()(z_VBD[0], z_VBD[1]), z_VBD)


def test_byol_is_the_papers_formula():
    p_VBD, target_VBD = projections(batch=5), projections(batch=5, seed=1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        for view in range(2):
            q = p_VBD[view, i] / p_VBD[view, i].norm()
            z = target_VBD[1 - view, i] / target_VBD[1 - view, i].norm()
            total = total + (q - z.detach()).square().sum() / 5
    same(byol.regression(p_VBD, target_VBD), total, p_VBD)


def test_moco_is_lightlys_nt_xent_with_its_queue():
    q_VBD, k_VBD = projections(), functional.normalize(projections(seed=1), dim=2).detach()
    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(40, 32))
    bank_KD = functional.normalize(torch.randn(40, 32, generator=torch.Generator().manual_seed(2)), dim=1).double()
    wanted = []
    for view in range(2):
        theirs.memory_bank.bank = bank_KD.clone()
        theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.int64)
        wanted.append(theirs(q_VBD[view], k_VBD[1 - view]))
    same(moco.info_nce(q_VBD, k_VBD, bank_KD, 0.2), torch.stack(wanted).mean(), q_VBD)


def test_dino_is_lightlys():
    outputs_VBK, teacher_VBK = projections(count=4, batch=8), projections(count=2, batch=8, seed=1).detach()
    theirs = DINOLoss(output_dim=32, warmup_teacher_temp=0.04, teacher_temp=0.04, student_temp=0.1).double()
    wanted = theirs(list(teacher_VBK), list(outputs_VBK), teacher_temp=0.04)
    target_VBK = (teacher_VBK / 0.04).softmax(dim=2)
    same(dino.cross_entropy(outputs_VBK, target_VBK, 0.1), wanted, outputs_VBK)


def test_swav_is_lightlys():
    unit = functional.normalize(projections(count=4, batch=8), dim=2)
    scores_VBK = unit.detach().requires_grad_()
    wanted = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(
        list(scores_VBK[:2]), list(scores_VBK[2:])
    )
    codes = torch.stack([swav.sinkhorn(scores, epsilon=0.05, iterations=3) for scores in scores_VBK[:2]])
    torch.testing.assert_close(codes.sum(dim=2), torch.ones(2, 8, dtype=torch.float64))
    same(swav.swapped_prediction(scores_VBK, codes, 0.1), wanted.squeeze(), scores_VBK)


def test_mixed_barlow_twins_is_the_papers_formula():
    z_VBD = projections(count=3, batch=10, dimension=6)
    order = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    alpha, options = 0.3, mixed_barlow_twins.Options(mixing=4.0)
    four = torch.cat([z_VBD, z_VBD[1][order][None]])
    unit = (four - four.mean(1, keepdim=True)) / (four.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    a, b, m, s = unit
    barlow = barlow_twins.cross_correlation(z_VBD[:2], redundancy=options.redundancy).total
    parts = []
    for side in (a, s):
        got = m.t() @ side / 10
        wanted = alpha * a.t() @ side / 10 + (1 - alpha) * s.t() @ side / 10
        parts.append((got - wanted).square().sum())
    total = barlow + options.redundancy * options.mixing * (parts[0] + parts[1]) / 2
    ours = mixed_barlow_twins.mixed_cross_correlation(four, alpha_B=torch.full((10,), alpha).double(), options=options)
    same(ours.total, total, z_VBD)
    assert b.shape == a.shape


def test_corinfomax_is_the_papers_formula_and_remembers():
    z_VBD = projections(batch=40, dimension=6)
    u = functional.normalize(z_VBD, dim=2)
    options = corinfomax.Options(output=6)
    mean, covariance = torch.zeros(2, 6).double(), torch.eye(6).repeat(2, 1, 1).double()
    ours, new_mean, new_covariance = corinfomax.information(u, mean, covariance, options)
    total = options.attraction * (u[0] - u[1]).square().sum() / (40 * 6)
    for view in range(2):
        moved = 0.99 * mean[view] + 0.01 * u[view].mean(0)
        centered = u[view] - moved
        r = 0.99 * covariance[view] + 0.01 * sum(torch.outer(row, row) for row in centered) / 40
        total = total - torch.linalg.slogdet(r + options.epsilon * torch.eye(6).double()).logabsdet / 6
        torch.testing.assert_close(new_mean[view], moved)
        torch.testing.assert_close(new_covariance[view], r)
    same(ours.total, total, z_VBD)


def test_exemplar_cnn_is_a_softmax_over_images():
    z_MD, weights = projections(count=1, batch=6)[0], projections(count=1, batch=9, seed=1)[0].detach()
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for z, t in zip(z_MD, target, strict=True):
        logits = torch.stack([(z @ w) / (z.norm() * w.norm()) / 0.1 for w in weights])
        losses.append(-logits[t] + logits.exp().sum().log())
    ours = exemplar_cnn.instance_cross_entropy(z_MD, weights, target, temperature=0.1)
    same(ours, torch.stack(losses).mean(), z_MD)


def test_the_masked_autoencoder_hides_a_share_and_is_scored_on_it_alone():
    generator = torch.Generator().manual_seed(0)
    hidden = mae.hidden_patches(50, 8, 0.25, generator)
    assert (hidden.flatten(1).sum(1) == 16).all()
    assert 0.05 < hidden.float().mean(dim=0).min() < hidden.float().mean(dim=0).max() < 0.55
    x_MCHW = torch.rand(3, 2, 32, 32, generator=generator)
    target = mae.patches(x_MCHW, grid=8, side=4)
    assert target.shape == (3, 64, 32)
    by_hand = x_MCHW[1, :, 4:8, 8:12].flatten()
    torch.testing.assert_close(target[1, 8 + 2], (by_hand - by_hand.mean()) / (by_hand.var() + 1e-6).sqrt())
    wrong = target + (~hidden[:3].flatten(1))[:, :, None]
    assert float(mae.masked_error(wrong, target, hidden[:3].flatten(1))) == 0.0
    torch.testing.assert_close(mae.masked_error(target + 2, target, hidden[:3].flatten(1)), torch.tensor(4.0))


def test_distillation_is_the_papers_formula():
    z_BD = projections(count=1, batch=7, dimension=5)[0]
    t_BD = functional.normalize(projections(count=1, batch=7, dimension=5, seed=1)[0], dim=1).detach()
    distance, relations = distillation.distance_and_relations(z_BD, t_BD, 0.1)
    u = functional.normalize(z_BD, dim=1)
    same(distance, torch.stack([1 - u[i] @ t_BD[i] for i in range(7)]).mean(), z_BD)
    p_teacher = torch.stack([(t_BD[i] @ t_BD.t() / 0.1).softmax(0) for i in range(7)])
    p_student = torch.stack([(u[i] @ t_BD.t() / 0.1).softmax(0) for i in range(7)])
    same(relations, -(p_teacher * p_student.log()).sum(1).mean(), z_BD)


def test_distillation_without_a_teacher_says_so():
    context = methods.MethodContext(
        dimension=8, image_count=8, channels=3, image_size=16, batch_size=8, backbone=torch.nn.Identity()
    )
    with pytest.raises(InvalidConfigError, match="needs a teacher"):
        methods.create("distillation", {}, context)


def test_the_teacher_follows_and_the_queue_turns():
    student = torch.nn.Linear(2, 2)
    teacher_ = Teacher(student)
    before = student.weight.detach().clone()
    with torch.no_grad():
        student.weight.add_(1.0)
    teacher_.follow(student, momentum=0.9)
    torch.testing.assert_close(teacher_.network.get_parameter("weight").data, before + 0.1)
    assert rising(0.9, 0.0) == pytest.approx(0.9)
    assert rising(0.9, 1.0) == pytest.approx(1.0)
    queue = Queue(size=5, dimension=2)
    for number in range(4):
        queue.push(torch.full((2, 2), float(number)), torch.tensor([number, number + 10]))
        assert int((queue.rows_K < 0).sum()) == max(3 - 2 * number, 0)
    assert queue.x_KD[:, 0].tolist() == [2.0, 3.0, 3.0, 1.0, 2.0]
    assert queue.rows_K.tolist() == [12, 3, 13, 11, 2]
    queue.push(torch.arange(14.0).view(7, 2), torch.arange(7))
    assert sorted(queue.x_KD[:, 0].tolist()) == [4.0, 6.0, 8.0, 10.0, 12.0]
    assert sorted(queue.rows_K.tolist()) == [2, 3, 4, 5, 6]


def test_neighbors_are_the_nearest_of_other_images():
    queue = Queue(size=4, dimension=2)
    queue.push(
        functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=1), torch.arange(4)
    )
    x_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    one_BD = queue.neighbors(x_BD, torch.tensor([0, 7]), count=1)
    torch.testing.assert_close(one_BD, queue.x_KD[[1, 0]])
    two_BD = queue.neighbors(x_BD, torch.tensor([0, 7]), count=2)
    wanted = functional.normalize(torch.stack([queue.x_KD[[1, 2]].mean(0), queue.x_KD[[0, 1]].mean(0)]), dim=1)
    torch.testing.assert_close(two_BD, wanted)
    all_BD = queue.neighbors(x_BD, torch.tensor([0, 7]), count=99)
    torch.testing.assert_close(
        all_BD, functional.normalize(torch.stack([queue.x_KD[1:].sum(0), queue.x_KD.sum(0)]), dim=1)
    )
    alone = Queue(size=1, dimension=2)
    alone.push(x_BD[:1], torch.tensor([0]))
    assert not alone.neighbors(x_BD[:1], torch.tensor([0]), count=5).any()
