"""SimSiam, "Exploring Simple Siamese Representation Learning", arXiv:2011.10566.

Differs: the width of the heads follows the backbone; views of small images, without blur.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.distributed import mean
from trainer.heads import projector
from trainer.method import JointMethod, LossTerms, MethodContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of SimSiam."""

    hidden: int = 1024
    """Width of the projector and dimension of the projections."""
    bottleneck: int = 256
    """Width of the predictor."""


class SimSiam(JointMethod):
    """Predicts the projection of one view from the other; the target has no gradient."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        width = options.hidden
        # The last normalisation without scale and shift, as in section 4.4.
        self.projector = projector((context.dimension, width, width, width), last_norm=True, last_affine=False)
        self.predictor: nn.Module = projector((width, options.bottleneck, width))

    @override
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss averaged over all processes."""
        p_VBD = torch.stack([self.predictor(z_BD) for z_BD in z_VBD]).float()
        terms = negative_cosine(p_VBD, z_VBD)
        return LossTerms(total=mean(terms.total), terms=terms.terms)


METHOD = SimSiam


def negative_cosine(p_VBD: torch.Tensor, z_VBD: torch.Tensor) -> LossTerms:
    """Returns the symmetrised negative cosine, eq. 2; in [-1, 1].

    Args:
        p_VBD: predictions from two views.
        z_VBD: projections of the two views; no gradient flows into them.
    """
    target_VBD = z_VBD.detach().flip(0)
    total = -functional.cosine_similarity(p_VBD, target_VBD, dim=-1).mean()
    return LossTerms(total=total, terms={"cosine": total})
