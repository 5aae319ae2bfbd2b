"""The small networks behind a backbone: projectors and predictors."""

import itertools

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override


def projector(dimensions: tuple[int, ...], *, last_norm: bool = False, last_affine: bool = True) -> nn.Sequential:
    """Returns linear layers with batch normalisation and ReLU between them.

    Args:
        dimensions: D of the input, of each hidden layer and of the output.
        last_norm: normalise the output too.
        last_affine: whether that last normalisation has scale and shift.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(dimensions)):
        last = number == len(dimensions) - 2
        normed = last_norm if last else True
        layers.append(nn.Linear(before, after, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(after, affine=last_affine if last else True))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Prototypes(nn.Module):
    """Cosines of embeddings to learned prototypes.

    Args:
        dimension: D.
        count: prototypes, K.
    """

    def __init__(self, dimension: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dimension))

    @override
    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Returns cosines of shape (B, K), in [-1, 1]."""
        return functional.normalize(x_BD.float(), dim=1) @ functional.normalize(self.weight, dim=1).t()
