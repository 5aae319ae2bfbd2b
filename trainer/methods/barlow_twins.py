"""Barlow Twins, "Self-Supervised Learning via Redundancy Reduction", arXiv:2103.03230.

Differs: a narrower projector; views of small images, the same for both sides.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from typing_extensions import override

from trainer.distributed import gather
from trainer.heads import projector
from trainer.method import JointMethod, LossTerms, MethodContext

_EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of Barlow Twins."""

    hidden: int = 1024
    """Width of the projector."""
    output: int = 1024
    """Dimension of the projections."""
    redundancy: float = 5e-3
    """Weight of the off-diagonal terms, lambda."""


class BarlowTwins(JointMethod):
    """Makes the cross-correlation of the projections of two views the identity."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.hidden, options.output))

    @override
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss over the views of all processes."""
        return cross_correlation(gather(z_VBD, dim=1), redundancy=self.options.redundancy)


METHOD = BarlowTwins


def cross_correlation(z_VBD: torch.Tensor, *, redundancy: float) -> LossTerms:
    """Returns the loss of arXiv:2103.03230, eq. 1 and 2; each dimension is standardised over the batch.

    Args:
        z_VBD: projections of two views.
        redundancy: weight of the off-diagonal terms, lambda.
    """
    assert len(z_VBD) == 2, "two views"
    batch = z_VBD.shape[1]
    centered_VBD = z_VBD - z_VBD.mean(dim=1, keepdim=True)
    # As batch normalisation: biased variance.
    unit_VBD = centered_VBD / (centered_VBD.square().mean(dim=1, keepdim=True) + _EPSILON).sqrt()
    c_DD = unit_VBD[0].t() @ unit_VBD[1] / batch
    diagonal_D = c_DD.diagonal()
    invariance = (diagonal_D - 1).square().sum()
    off = c_DD.square().sum() - diagonal_D.square().sum()
    return LossTerms(total=invariance + redundancy * off, terms={"invariance": invariance, "redundancy": off})
