"""MoCo v2, "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297, over arXiv:1911.05722.

Differs: both views are queries in turn; no shuffling of batch statistics between processes; the
teacher's momentum is 0.99 and the queue 4,096, for runs of minutes; views of small images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.distributed import gather_detached, mean
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views
from trainer.queue import Queue
from trainer.teacher import Teacher


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of MoCo."""

    hidden: int = 512
    """Width of the projector."""
    output: int = 128
    """Dimension of the projections."""
    temperature: float = 0.2
    """Divides the cosines; above 0."""
    momentum: float = 0.99
    """Of the teacher."""
    queue: int = 4096
    """Keys of earlier batches that are negatives."""


class Moco(Method):
    """Tells a slow teacher's key of the same image from those of earlier batches."""

    options: Options
    options_type: ClassVar[type] = Options

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.output))
        self.teacher = Teacher(nn.Sequential(context.backbone, self.projector))
        self.queue = Queue(size=options.queue, dimension=options.output)

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch, and queues its keys."""
        x_MCHW = torch.cat(views.full[:2])
        shape = (2, len(views.rows_B))
        y_MD = backbone(x_MCHW)
        q_MD = self.projector(y_MD)
        k_MD = self.teacher(x_MCHW)
        with torch.autocast(x_MCHW.device.type, enabled=False):
            q_VBD, k_VBD = q_MD.float().unflatten(0, shape), functional.normalize(k_MD.float(), dim=1).view(*shape, -1)
            total = mean(info_nce(q_VBD, k_VBD, self.queue.x_KD.clone(), self.options.temperature))
        self.queue.push(gather_detached(k_VBD[0]), gather_detached(views.rows_B))
        y_VBD = y_MD.detach().float().unflatten(0, shape)
        return StepOutput(loss=LossTerms(total=total, terms={"contrast": total}), embeddings=(y_VBD[0], y_VBD[1]))

    @override
    def after_step(self, backbone: nn.Module, *, progress: float) -> None:
        """Lets the teacher follow."""
        self.teacher.follow(nn.Sequential(backbone, self.projector), momentum=self.options.momentum)


METHOD = Moco


def info_nce(q_VBD: torch.Tensor, k_VBD: torch.Tensor, queue_KD: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns InfoNCE (arXiv:1911.05722, eq. 1) of two views' queries and the other view's keys, averaged.

    Args:
        q_VBD: projections of the student, of any length.
        k_VBD: unit keys of the teacher.
        queue_KD: unit keys of earlier batches, the negatives.
        temperature: divides the cosines.
    """
    q_VBD = functional.normalize(q_VBD, dim=2)
    positive_VB1 = (q_VBD * k_VBD.detach().flip(0)).sum(dim=2, keepdim=True)
    negative_VBK = q_VBD @ queue_KD.to(q_VBD.dtype).t()
    logits_MK = torch.cat([positive_VB1, negative_VBK], dim=2).flatten(0, 1) / temperature
    first_M = torch.zeros(len(logits_MK), dtype=torch.int64, device=q_VBD.device)
    return functional.cross_entropy(logits_MK, first_M)
