"""Exemplar-CNN, "Discriminative Unsupervised Feature Learning with Exemplar CNNs", arXiv:1406.6909.

Each image is a class of its own, and its views are told from those of other images.

Differs: all images are classes, so the softmax is taken over the classes of the batch and a drawn
sample of the others; class weights are of unit length, with a temperature.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import gather_detached, mean
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of Exemplar-CNN."""

    hidden: int = 512
    """Width of the projector."""
    output: int = 128
    """Dimension of the projections and class weights."""
    sampled: int = 4096
    """Classes outside the batch that are drawn for the softmax."""
    temperature: float = 0.1
    """Divides the cosines."""


class ExemplarCnn(Method):
    """Classifies views by the image that they come from."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(crop_scale=(0.25, 1.0))

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.output))
        self.classes = nn.Embedding(context.image_count, options.output)

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch."""
        shape = (len(views.full), len(views.rows_B))
        y_MD = backbone(torch.cat(views.full))
        z_MD = self.projector(y_MD)
        batch_rows = gather_detached(views.rows_B)
        count = self.classes.num_embeddings
        drawn_S = torch.randint(count, (self.options.sampled,), generator=views.generator, device=z_MD.device)
        drawn_S = drawn_S[~torch.isin(drawn_S, batch_rows)]
        start = int((batch_rows == views.rows_B[0]).nonzero()[0])
        target_B = start + torch.arange(shape[1], device=z_MD.device)
        weights_CD = self.classes(torch.cat([batch_rows, torch.unique(drawn_S)]))
        with torch.autocast(z_MD.device.type, enabled=False):
            total = mean(
                instance_cross_entropy(
                    z_MD.float(), weights_CD, target_B.repeat(shape[0]), temperature=self.options.temperature
                )
            )
        y_VBD = y_MD.detach().float().unflatten(0, shape)
        return StepOutput(loss=LossTerms(total=total, terms={"exemplar": total}), embeddings=(y_VBD[0], y_VBD[1]))


METHOD = ExemplarCnn


def instance_cross_entropy(
    z_MD: torch.Tensor, weights_CD: torch.Tensor, target_M: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Returns the multinomial loss of arXiv:1406.6909, eq. 5, over unit vectors.

    Args:
        z_MD: projections of views.
        weights_CD: weights of the classes that take part.
        target_M: class of each view, as a row of the weights.
        temperature: divides the cosines.
    """
    cos_MC = functional.normalize(z_MD, dim=1) @ functional.normalize(weights_CD, dim=1).t()
    return functional.cross_entropy(cos_MC / temperature, target_M)
