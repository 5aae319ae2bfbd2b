"""SimCLR, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709.

With ``decoupled``, the positive pair is left out of the denominator: "Decoupled Contrastive
Learning", arXiv:2110.06848, eq. 6, without weights.

With ``neighbor_weight``, a share of what draws the views of an image together draws them to similar images instead:
"With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations",
arXiv:2104.14548, eq. 3, with the mean of several neighbors as in "Mean Shift for Self-Supervised Learning",
arXiv:2105.07269. Neighbors are sought by the mean of the views, among earlier batches; an image is never its own.

Differs: four views of half as many images, which a step learns more from ("Poly-View Contrastive Learning",
arXiv:2403.05490; ours is the plain mean over pairs); views of small images (crops from 0.2, no blur);
temperature and optimiser for minutes of training, not for 800 epochs; the decoupled loss by default.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import gather, gather_detached
from trainer.heads import projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views, forward_views
from trainer.queue import Queue

_RISE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of SimCLR."""

    temperature: float = 0.15
    """Divides the cosines; above 0."""
    decoupled: bool = True
    """Leave the positive out of the denominator."""
    hidden: int = 512
    """Width of the projector."""
    output: int = 128
    """Dimension of the projections."""
    neighbor_weight: float = 0.5
    """Share of neighbors in what draws together, in [0, 1]."""
    neighbor_begin: float = 0.3
    """Fraction of the budget before which there are none; their share then rises over a tenth of the budget."""
    neighbor_count: int = 5
    """Neighbors of an image."""
    queue: int = 8192
    """Images of earlier batches among which they are sought, at most all; until it is full, there are none."""


class SimClr(Method):
    """Tells each image's views from all other views of the batch."""

    options: Options
    options_type: ClassVar[type] = Options
    progress: torch.Tensor
    views: ClassVar[ViewConfig] = ViewConfig(count=4)
    any_views: ClassVar[bool] = True
    gray_options: ClassVar[dict[str, Any]] = {"temperature": 0.1}

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.output))
        self.queue = Queue(size=min(options.queue, context.image_count), dimension=options.output)
        self.register_buffer("progress", torch.zeros(()))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch over the views of all processes, and queues its images."""
        options = self.options
        y_VBD, z_VBD = forward_views(backbone, self.projector, views)
        # Losses are computed in float32: a softmax over similarities does not survive bfloat16.
        with torch.autocast(z_VBD.device.type, enabled=False):
            z_VBD, rows_B = gather(z_VBD.float(), dim=1), gather_detached(views.rows_B)
            loss = contrastive(z_VBD, temperature=options.temperature, decoupled=options.decoupled)
            if options.neighbor_weight:
                mean_BD = functional.normalize(functional.normalize(z_VBD.detach(), dim=2).mean(dim=0), dim=1)
                near_BD = self.queue.neighbors(mean_BD, rows_B, count=options.neighbor_count)
                loss = drawn_to(loss, z_VBD, near_BD, weight=self._weight(), temperature=options.temperature)
                self.queue.push(mean_BD, rows_B)
        return StepOutput(loss=loss, embeddings=(y_VBD[0], y_VBD[1]))

    @override
    def after_step(self, backbone: nn.Module, *, progress: float) -> None:
        """Notes how much of the budget is spent."""
        self.progress.fill_(progress)

    def _weight(self) -> torch.Tensor:
        # Of tensors, so that no step waits for a device to say what it is.
        risen = ((self.progress - self.options.neighbor_begin) / _RISE).clamp(0.0, 1.0)
        return self.options.neighbor_weight * risen * (self.queue.rows_K >= 0).all()


METHOD = SimClr


def contrastive(z_VBD: torch.Tensor, *, temperature: float, decoupled: bool) -> LossTerms:
    """Returns NT-Xent (arXiv:2002.05709, eq. 1) or its decoupled form (arXiv:2110.06848, eq. 6).

    With more than two views, the mean over the pairs that each makes with the others of its image (arXiv:2004.11362,
    eq. 2, where the images are the classes).

    Args:
        z_VBD: projections of V views, at least 2, float, of any length.
        temperature: divides the cosines.
        decoupled: leave the views of the same image out of the denominator.
    """
    count, batch = z_VBD.shape[:2]
    z_MD = functional.normalize(z_VBD.flatten(0, 1), dim=1)
    sim_MM = z_MD @ z_MD.t() / temperature
    image_M = torch.arange(batch, device=z_MD.device).repeat(count)
    same_MM = image_M[:, None] == image_M
    itself_MM = torch.eye(count * batch, dtype=torch.bool, device=z_MD.device)
    positive_M = sim_MM.masked_fill(~same_MM | itself_MM, 0.0).sum(dim=1) / (count - 1)
    spread_M = sim_MM.masked_fill(same_MM if decoupled else itself_MM, float("-inf")).logsumexp(dim=1)
    align, spread = -positive_M.mean(), spread_M.mean()
    return LossTerms(total=align + spread, terms={"alignment": align, "uniformity": spread})


def drawn_to(
    loss: LossTerms, z_VBD: torch.Tensor, near_BD: torch.Tensor, *, weight: torch.Tensor, temperature: float
) -> LossTerms:
    """Puts neighbors in the place of a share of the views (arXiv:2104.14548, eq. 3, its numerator).

    Args:
        loss: of ``contrastive``.
        z_VBD: projections of V views, of any length.
        near_BD: unit vectors of the images' neighbors.
        weight: share of the neighbors, scalar in [0, 1].
        temperature: divides the cosines.
    """
    align = loss.terms["alignment"]
    near = -(functional.normalize(z_VBD, dim=2) * near_BD).sum(dim=2).mean() / temperature
    return LossTerms(total=loss.total + weight * (near - align), terms={**loss.terms, "neighbors": near})
