"""SwAV, "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", arXiv:2006.09882.

Differs: 512 prototypes; two small views; no queue; the prototypes are normalised in the forward
pass instead of after each step.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from trainer.config import ViewConfig
from trainer.distributed import gather_detached, mean, rank
from trainer.heads import Prototypes, projector
from trainer.method import LossTerms, Method, MethodContext, StepOutput, Views, forward_views


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of SwAV."""

    hidden: int = 512
    """Width of the projector."""
    output: int = 128
    """Dimension of the projections."""
    prototypes: int = 512
    """Clusters, K."""
    temperature: float = 0.1
    """Divides the cosines to prototypes."""
    epsilon: float = 0.05
    """Of the entropy in the assignment."""
    iterations: int = 3
    """Of Sinkhorn and Knopp."""


class Swav(Method):
    """Predicts the cluster assignment of one view from the others; clusters are used equally."""

    options: Options
    options_type: ClassVar[type] = Options
    views: ClassVar[ViewConfig] = ViewConfig(local_count=2, crop_scale=(0.25, 1.0))
    any_views: ClassVar[bool] = True

    def __init__(self, options: Options, context: MethodContext) -> None:
        super().__init__(options, context)
        head = projector((context.dimension, options.hidden, options.output))
        self.head = nn.Sequential(head, Prototypes(options.output, options.prototypes))

    @override
    def step(self, backbone: nn.Module, views: Views) -> StepOutput:
        """Returns the loss of a batch."""
        y_VBD, scores_VBK = forward_views(backbone, self.head, views)
        count = len(views.full)
        with torch.autocast(scores_VBK.device.type, enabled=False):
            scores_VBK = scores_VBK.float()
            codes_VBK = torch.stack([self._assign(scores_BK) for scores_BK in scores_VBK[:count]])
            total = mean(swapped_prediction(scores_VBK, codes_VBK, self.options.temperature))
        return StepOutput(loss=LossTerms(total=total, terms={"swap": total}), embeddings=(y_VBD[0], y_VBD[1]))

    def _assign(self, scores_BK: torch.Tensor) -> torch.Tensor:
        everyone_BK = gather_detached(scores_BK)
        codes_BK = sinkhorn(everyone_BK, epsilon=self.options.epsilon, iterations=self.options.iterations)
        start = rank() * len(scores_BK)
        return codes_BK[start : start + len(scores_BK)]


METHOD = Swav


def sinkhorn(scores_BK: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
    """Returns soft assignments of eq. 3 to 5, each row of which adds up to 1; without gradient.

    Args:
        scores_BK: cosines of the images of all processes to the prototypes.
        epsilon: smoothness, above 0.
        iterations: of Sinkhorn and Knopp's algorithm.
    """
    with torch.no_grad():
        # In logarithms, as exp(1 / 0.05) is large.
        log_BK = scores_BK.detach() / epsilon
        for _ in range(iterations):
            log_BK = log_BK - log_BK.logsumexp(dim=0, keepdim=True)
            log_BK = log_BK - log_BK.logsumexp(dim=1, keepdim=True)
        return log_BK.exp()


def swapped_prediction(scores_VBK: torch.Tensor, codes_TBK: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns eq. 2 with multi-crop: the mean over pairs of a code and another view.

    Args:
        scores_VBK: cosines of all views to the prototypes; the first T views have codes.
        codes_TBK: assignments of the full views; no gradient flows into them.
        temperature: divides the cosines.
    """
    log_VBK = functional.log_softmax(scores_VBK / temperature, dim=2)
    pair_TV = -torch.einsum("tbk,vbk->tv", codes_TBK.detach(), log_VBK) / scores_VBK.shape[1]
    others_TV = 1.0 - torch.eye(*pair_TV.shape, dtype=pair_TV.dtype, device=pair_TV.device)
    return (pair_TV * others_TV).sum() / others_TV.sum()
