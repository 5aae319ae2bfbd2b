"""DINO, "Emerging Properties in Self-Supervised Vision Transformers", arXiv:2104.14294.

Differs: 1,024 prototypes and a narrower head; the teacher's momentum begins at 0.98, for runs of
minutes; two small views; the last layer trains from the start.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import mean
from trainer.heads import Prototypes, projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views, forward_views
from trainer.teacher import Teacher, rising


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of DINO."""

    hidden: int = 512
    """Width of the head."""
    bottleneck: int = 128
    """Dimension before the prototypes."""
    prototypes: int = 1024
    """Outputs of the head, K."""
    student_temperature: float = 0.1
    """Divides the student's outputs."""
    teacher_temperature: float = 0.04
    """Divides the teacher's outputs."""
    center_momentum: float = 0.9
    """Weight of the past in the centre."""
    momentum: float = 0.98
    """Of the teacher at the beginning; it rises to 1."""


class Dino(Method):
    """Predicts a slow teacher's centred and sharpened distribution over prototypes, from small views too."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(local_count=2, crop_scale=(0.25, 1.0))
    any_views: ClassVar[bool] = True
    center_K: torch.Tensor

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        head = projector((context.dimension, options.hidden, options.bottleneck))
        self.head = nn.Sequential(head, Prototypes(options.bottleneck, options.prototypes))
        self.teacher = Teacher(nn.Sequential(context.backbone, self.head))
        self.register_buffer("center_K", torch.zeros(options.prototypes))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch, and moves the centre."""
        y_VBD, outputs_VBK = forward_views(backbone, self.head, views)
        teacher_VBK = self.teacher(torch.cat(views.full)).float().unflatten(0, (len(views.full), -1))
        with torch.autocast(teacher_VBK.device.type, enabled=False):
            # The centre is used as it was before this batch, on every process.
            target_VBK = ((teacher_VBK - self.center_K) / self.options.teacher_temperature).softmax(dim=2)
            total = mean(cross_entropy(outputs_VBK.float(), target_VBK, self.options.student_temperature))
            entropy = -(target_VBK * target_VBK.clamp(min=1e-9).log()).sum(dim=2).mean()
            center_K = mean(teacher_VBK.mean(dim=(0, 1)))
            self.center_K.lerp_(center_K.detach(), 1 - self.options.center_momentum)
        loss = LossTerms(total=total, terms={"cross_entropy": total, "teacher_entropy": entropy})
        return StepOutput(loss=loss, embeddings=(y_VBD[0], y_VBD[1]))

    @override
    def after_step(self, backbone: nn.Module, *, progress: float) -> None:
        """Lets the teacher follow."""
        student = nn.Sequential(backbone, self.head)
        self.teacher.follow(student, momentum=rising(self.options.momentum, progress))


METHOD = Dino


def cross_entropy(outputs_VBK: torch.Tensor, target_TBK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns arXiv:2104.14294, eq. 3: the mean over pairs of a teacher's and another, student's view.

    Args:
        outputs_VBK: the student's outputs; the first T views are those of the teacher.
        target_TBK: the teacher's distributions; no gradient flows into them.
        temperature: divides the student's outputs.
    """
    log_VBK = functional.log_softmax(outputs_VBK / temperature, dim=2)
    pair_TV = -torch.einsum("tbk,vbk->tv", target_TBK.detach(), log_VBK) / outputs_VBK.shape[1]
    others_TV = 1.0 - torch.eye(*pair_TV.shape, dtype=pair_TV.dtype, device=pair_TV.device)
    return (pair_TV * others_TV).sum() / others_TV.sum()
