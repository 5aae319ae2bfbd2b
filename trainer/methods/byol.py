"""BYOL, "Bootstrap Your Own Latent", arXiv:2006.07733.

Differs: narrower heads; the teacher's momentum begins at 0.98, for runs of minutes; views of small
images, the same for both sides.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.distributed import mean
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views
from trainer.teacher import Teacher, rising


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of BYOL."""

    hidden: int = 1024
    """Width of projector and predictor."""
    output: int = 256
    """Dimension of the projections."""
    momentum: float = 0.98
    """Of the teacher at the beginning; it rises to 1."""


class Byol(Method):
    """Predicts a slow teacher's projection of the other view."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.output))
        self.predictor = projector((options.output, options.hidden, options.output))
        self.teacher = Teacher(nn.Sequential(context.backbone, self.projector))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch."""
        x_MCHW = torch.cat(views.full[:2])
        y_MD = backbone(x_MCHW)
        p_MD = self.predictor(self.projector(y_MD))
        target_MD = self.teacher(x_MCHW)
        with torch.autocast(x_MCHW.device.type, enabled=False):
            shape = (2, len(views.rows_B))
            total = mean(regression(p_MD.float().unflatten(0, shape), target_MD.float().unflatten(0, shape)))
        y_VBD = y_MD.detach().float().unflatten(0, shape)
        return StepOutput(loss=LossTerms(total=total, terms={"regression": total}), embeddings=(y_VBD[0], y_VBD[1]))

    @override
    def after_step(self, backbone: nn.Module, *, progress: float) -> None:
        """Lets the teacher follow."""
        student = nn.Sequential(backbone, self.projector)
        self.teacher.follow(student, momentum=rising(self.options.momentum, progress))


METHOD = Byol


def regression(p_VBD: torch.Tensor, target_VBD: torch.Tensor) -> torch.Tensor:
    """Returns arXiv:2006.07733, eq. 2, symmetrised: 2 - 2 cos of each prediction and the other's target; in [0, 8]."""
    cos_VB = functional.cosine_similarity(p_VBD, target_VBD.detach().flip(0), dim=-1)
    return (2.0 - 2.0 * cos_VB).mean(dim=1).sum()
