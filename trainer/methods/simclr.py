"""SimCLR, "A Simple Framework for Contrastive Learning of Visual Representations", arXiv:2002.05709.

With ``decoupled``, the positive pair is left out of the denominator: "Decoupled Contrastive
Learning", arXiv:2110.06848, eq. 6, without weights.

Differs: four views of half as many images, which a step learns more from ("Poly-View Contrastive Learning",
arXiv:2403.05490; ours is the plain mean over pairs); views of small images (crops from 0.2, no blur);
temperature and optimiser for minutes of training, not for 800 epochs; the decoupled loss by default.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import gather
from trainer.heads import projector
from trainer.method import JointMethod, LossTerms, MethodContext


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


class SimClr(JointMethod):
    """Tells each image's views from all other views of the batch."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(count=4)
    any_views: ClassVar[bool] = True
    gray_options: ClassVar[dict[str, Any]] = {"temperature": 0.1}

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        self.projector = projector((context.dimension, options.hidden, options.output))

    @override
    def loss(self, z_VBD: torch.Tensor) -> LossTerms:
        """Returns the loss over the views of all processes."""
        return contrastive(gather(z_VBD, dim=1), temperature=self.options.temperature, decoupled=self.options.decoupled)


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
