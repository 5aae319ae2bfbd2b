"""VICReg, "Variance-Invariance-Covariance Regularization", arXiv:2105.04906.

Differs: a narrower projector; views of small images, the same for both sides.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional
from typing_extensions import override

from trainer.distributed import gather
from trainer.heads import projector
from trainer.method import JointMethod, LossTerms, MethodContext

_EPSILON = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of VICReg."""

    hidden: int = 1024
    """Width of the projector."""
    output: int = 1024
    """Dimension of the projections."""
    invariance: float = 25.0
    """Weight of the squared distance of two views, lambda."""
    variance: float = 25.0
    """Weight of the hinge on standard deviations, mu."""
    covariance: float = 1.0
    """Weight of the squared covariances, nu."""


class VicReg(JointMethod):
    """Keeps views close, every dimension spread, and dimensions uncorrelated."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.hidden, options.output))

    @override
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss over the views of all processes."""
        return variance_invariance_covariance(gather(z_VBD, dim=1), self.options)


METHOD = VicReg


def variance_invariance_covariance(z_VBD: torch.Tensor, options: Options) -> LossTerms:
    """Returns the loss of arXiv:2105.04906, eq. 6, of projections of two views.

    Checked against lightly 1.6.0 VICRegLoss: the hinge is averaged over the two views, the
    covariances are added.
    """
    invariance = functional.mse_loss(z_VBD[0], z_VBD[1])
    centered_VBD = z_VBD - z_VBD.mean(dim=1, keepdim=True)
    count, dimension = z_VBD.shape[1], z_VBD.shape[2]
    std_VD = (centered_VBD.square().sum(dim=1) / (count - 1) + _EPSILON).sqrt()
    variance = functional.relu(1.0 - std_VD).mean()
    c_VDD = centered_VBD.transpose(1, 2) @ centered_VBD / (count - 1)
    diagonal_VD = c_VDD.diagonal(dim1=1, dim2=2)
    covariance = (c_VDD.square().sum() - diagonal_VD.square().sum()) / dimension
    total = options.invariance * invariance + options.variance * variance + options.covariance * covariance
    terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return LossTerms(total=total, terms=terms)
