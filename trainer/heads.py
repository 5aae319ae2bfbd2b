"""The small networks behind a backbone: projectors and predictors."""

import itertools

from torch import nn


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
