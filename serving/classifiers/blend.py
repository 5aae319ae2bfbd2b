"""Weighted mean of the calibrated probabilities of prototype, knn and two ridge regressions, calibrated again.

Each fails where another does not: prototypes on classes of many faces, neighbours on few examples.
The weights are those under which the held-out labels are most probable (stacking of predictive
distributions with the logarithmic score, arXiv:1704.02030), found by expectation maximisation; one
example's worth of prior for each member holds them together when there are few.
How it does beside each of them is in docs/labels.md.
"""

import functools
from typing import Any

import numpy as np

from serving.fewshot.head import Head, calibrated, judged
from vicinal import plugins
from vicinal.types import F32Array, I64Array

DESCRIPTION = "Weighted mean of prototype, knn and ridge, each calibrated; the safest single choice."
RIDGE_SHARES = (1.0, 1 / 3)
"""Penalties of the ridge regressions, as parts of the one of least PRESS, which is often too large for ranking."""
_FLOOR = np.float32(1e-6)
_PRIOR = 1.0
"""Judged examples that each member is given beforehand."""
_ROUNDS = 30
_SETTLED = 3e-3


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Fits the members and blends them.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head; its scores are logarithms of mean probabilities.
    """
    return combine(members(x_ND, y_N, class_count=class_count), y_N)


def members(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> list[Head]:
    """Fits prototype, knn, and ridge at each of its penalties."""
    alone = [member(name).fit(x_ND, y_N, class_count=class_count) for name in ("prototype", "knn")]
    return [*alone, *member("ridge").heads(x_ND, y_N, class_count=class_count, shares=RIDGE_SHARES)]


@functools.cache
def member(name: str) -> Any:
    """Returns another classifier of the family, looked up once."""
    return plugins.load(__name__.rpartition(".")[0], name)


def combine(heads: list[Head], y_N: I64Array) -> Head:
    """Blends heads that were fitted to the same support."""
    held_out_of_heads = [head.held_out_probabilities() for head in heads]
    weight_H = _weights(held_out_of_heads, y_N)

    def scores(x_QD: F32Array) -> F32Array:
        return _log_mean([head.predict(x_QD) for head in heads], weight_H)

    return calibrated("blend", scores, _log_mean(held_out_of_heads, weight_H), y_N, prior=1.0)


def _weights(held_out_of_heads: list[F32Array], y_N: I64Array) -> F32Array:
    rows = judged(held_out_of_heads[0])
    p_HJ = np.stack([p_NC[rows, y_N[rows]] for p_NC in held_out_of_heads]) + _FLOOR
    weight_H = np.full(len(p_HJ), 1.0 / len(p_HJ), np.float32)
    for _ in range(_ROUNDS):
        share_HJ = weight_H[:, None] * p_HJ
        share_HJ /= share_HJ.sum(axis=0)
        before_H, weight_H = weight_H, share_HJ.sum(axis=1) + np.float32(_PRIOR)
        weight_H /= weight_H.sum()
        if np.abs(weight_H - before_H).max() < _SETTLED:
            break
    return weight_H


def _log_mean(p_of_heads: list[F32Array], weight_H: F32Array) -> F32Array:
    mean_QC = sum(weight * p_QC for weight, p_QC in zip(weight_H, p_of_heads, strict=True))
    return np.asarray(np.log(mean_QC + _FLOOR), dtype=np.float32)
