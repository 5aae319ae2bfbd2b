"""Mixed Barlow Twins, "Guarding Barlow Twins Against Overfitting with Mixed Samples", arXiv:2312.02151.

Differs: a narrower projector; views of small images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from typing_extensions import override

from trainer.distributed import gather, gather_detached, own, world_size
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views

_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of Mixed Barlow Twins."""

    hidden: int = 1024
    """Width of the projector."""
    output: int = 1024
    """Dimension of the projections."""
    redundancy: float = 5e-3
    """Weight of the off-diagonal terms, lambda."""
    mixing: float = 4.0
    """Weight of the regularisation, in units of lambda."""


class MixedBarlowTwins(Method):
    """Barlow Twins, held to linear interpolation between images."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.hidden, options.output))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch; each pair of views is mixed once more, so it costs half as much again."""
        first, second = views.full[:2]
        batch = len(first)
        device, generator = first.device, views.generator
        # Images are mixed over all processes, so the draw is one for the whole batch.
        order_N = torch.randperm(batch * world_size(), generator=generator, device=generator.device).to(device)
        # Beta(1, 1) is uniform.
        alpha = torch.rand((), generator=generator, device=generator.device).to(device)
        mixed = alpha * first + (1 - alpha) * gather_detached(second)[own(order_N)]
        y_MD = backbone(torch.cat([first, second, mixed]))
        z_MD = self.projector(y_MD)
        y_VBD = y_MD.detach().float().unflatten(0, (3, batch))
        with torch.autocast(device.type, enabled=False):
            z_VND = gather(z_MD.float().unflatten(0, (3, batch)), dim=1)
            z_VND = torch.cat([z_VND, z_VND[1][order_N][None]])
            loss = mixed_cross_correlation(z_VND, alpha_B=alpha.expand(z_VND.shape[1]), options=self.options)
        return StepOutput(loss=loss, embeddings=(y_VBD[0], y_VBD[1]))


METHOD = MixedBarlowTwins


def mixed_cross_correlation(z_VBD: torch.Tensor, *, alpha_B: torch.Tensor, options: Options) -> LossTerms:
    """Returns Barlow Twins (arXiv:2103.03230, eq. 1) plus the regularisation (arXiv:2312.02151, eq. 5 to 9).

    Args:
        z_VBD: projections of view A, of view B, of the mixture, and of view B in the order of the mixing.
        alpha_B: share of A in the mixture, in [0, 1].
        options: weights.
    """
    centered_VBD = z_VBD - z_VBD.mean(dim=1, keepdim=True)
    unit_VBD = centered_VBD / (centered_VBD.square().mean(dim=1, keepdim=True) + _EPSILON).sqrt()
    a_BD, b_BD, m_BD, s_BD = unit_VBD
    count = len(a_BD)
    c_DD = a_BD.t() @ b_BD / count
    diagonal_D = c_DD.diagonal()
    invariance = (diagonal_D - 1).square().sum()
    off = c_DD.square().sum() - diagonal_D.square().sum()
    alpha_B1 = alpha_B[:, None]
    # C(M, X) - C_gt(M, X) is one product, as the wanted correlations are linear in A and S.
    difference_BD = m_BD - (alpha_B1 * a_BD + (1 - alpha_B1) * s_BD)
    towards_a, towards_s = ((difference_BD.t() @ side_BD / count).square().sum() for side_BD in (a_BD, s_BD))
    mixing = towards_a + towards_s
    total = invariance + options.redundancy * (off + 0.5 * options.mixing * mixing)
    return LossTerms(total=total, terms={"invariance": invariance, "redundancy": off, "mixing": mixing})
