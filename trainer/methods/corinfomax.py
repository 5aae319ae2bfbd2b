"""CorInfoMax, "Self-Supervised Learning with an Information Maximization Criterion", arXiv:2209.10999.

Differs: a narrower projector; views of small images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional
from typing_extensions import override

from trainer.distributed import gather
from trainer.heads import projector
from trainer.method import JointMethod, LossTerms, MethodContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of CorInfoMax."""

    hidden: int = 1024
    """Width of the projector."""
    output: int = 64
    """Dimension of the projections."""
    attraction: float = 250.0
    """Weight of the squared distance of two views, alpha."""
    memory: float = 0.99
    """Weight of the past in mean and covariance, lambda."""
    epsilon: float = 1e-6
    """Added to the diagonal of the covariance."""


class CorInfoMax(JointMethod):
    """Maximises the log-determinants of the views' covariances, with a memory, and keeps views close."""

    options: Options
    options_type: ClassVar[type] = Options
    mean_VD: torch.Tensor
    covariance_VDD: torch.Tensor

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.hidden, options.output))
        self.register_buffer("mean_VD", torch.zeros(2, options.output))
        self.register_buffer("covariance_VDD", torch.eye(options.output).repeat(2, 1, 1))

    @override
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss over the views of all processes, and remembers mean and covariance."""
        z_VBD = functional.normalize(gather(z_VBD, dim=1), dim=2)
        terms, mean_VD, covariance_VDD = information(
            z_VBD, self.mean_VD.to(z_VBD.dtype), self.covariance_VDD.to(z_VBD.dtype), self.options
        )
        with torch.no_grad():
            self.mean_VD.copy_(mean_VD)
            self.covariance_VDD.copy_(covariance_VDD)
        return terms


METHOD = CorInfoMax


def information(
    z_VBD: torch.Tensor, mean_VD: torch.Tensor, covariance_VDD: torch.Tensor, options: Options
) -> tuple[LossTerms, torch.Tensor, torch.Tensor]:
    """Returns the negative of arXiv:2209.10999, eq. 6, with the moving moments of eq. 7 and 8.

    Args:
        z_VBD: unit projections of two views.
        mean_VD: means remembered so far.
        covariance_VDD: covariances remembered so far; no gradient flows into the memory.
        options: weights.

    Returns:
        The loss, averaged over dimensions, and the new means and covariances.
    """
    keep = options.memory
    mean_VD = keep * mean_VD.detach() + (1 - keep) * z_VBD.mean(dim=1)
    centered_VBD = z_VBD - mean_VD[:, None]
    batch_VDD = centered_VBD.transpose(1, 2) @ centered_VBD / z_VBD.shape[1]
    covariance_VDD = keep * covariance_VDD.detach() + (1 - keep) * batch_VDD
    eye = torch.eye(z_VBD.shape[2], dtype=z_VBD.dtype, device=z_VBD.device)
    spread = -torch.logdet(covariance_VDD + options.epsilon * eye).sum() / z_VBD.shape[2]
    distance = functional.mse_loss(z_VBD[0], z_VBD[1])
    total = spread + options.attraction * distance
    return LossTerms(total=total, terms={"log_determinant": spread, "distance": distance}), mean_VD, covariance_VDD
