"""Checks vectors that come from outside before they are compared with anything."""

from typing import Any

import numpy as np

from vicinal.errors import DimensionMismatchError, InvalidVectorError
from vicinal.types import F32Array, Metric

_PLAIN_NORMS = (1e-15, 1e15)
"""Lengths whose squares float32 holds well: longer and shorter vectors are looked at again."""
_LARGEST_NORM = 1e15
"""Longest vector taken where the metric does not divide by it: its square is far from float32's end."""


def checked_queries(x_QD: F32Array, *, dimension: int, metric: Metric, name: str) -> F32Array:
    """Returns query vectors ready to be searched: float32, C-contiguous, of unit length under cosine.

    Args:
        x_QD: vectors (Q, D).
        dimension: D that is wanted.
        metric: how closeness is computed.
        name: of what is searched, for the message.

    Raises:
        DimensionMismatchError: D is another.
        InvalidVectorError: a value is not finite or too large, or a vector is zero under cosine.
    """
    x_QD = np.ascontiguousarray(x_QD, dtype=np.float32)
    if x_QD.ndim != 2 or x_QD.shape[1] != dimension:
        got = x_QD.shape[-1] if x_QD.ndim else 0
        raise DimensionMismatchError(
            f"a vector has {got} dimensions, {name} has {dimension}; embed with its own encoder",
            metadata={"dimension": str(got), "wanted": str(dimension)},
        )
    norms_Q: Any = np.sqrt(np.einsum("qd,qd->q", x_QD, x_QD))
    if not ((norms_Q > _PLAIN_NORMS[0]) & (norms_Q < _PLAIN_NORMS[1])).all():
        norms_Q = _checked_norms(x_QD, metric)
    if metric is Metric.COSINE and np.abs(norms_Q - 1).max(initial=0) > 1e-6:
        x_QD = np.ascontiguousarray(x_QD / norms_Q[:, None], dtype=np.float32)
    return x_QD


def _checked_norms(x_QD: F32Array, metric: Metric) -> Any:
    # In float64 a square neither overflows nor vanishes; NaN and infinity stay visible in the sum.
    norms_Q = np.sqrt(np.einsum("qd,qd->q", x_QD, x_QD, dtype=np.float64))
    largest = np.inf if metric is Metric.COSINE else _LARGEST_NORM
    good_Q = np.isfinite(norms_Q) & (norms_Q <= largest)
    if metric is Metric.COSINE:
        good_Q &= norms_Q > 0
    if not good_Q.all():
        raise _invalid_vector(x_QD, int(np.argmin(good_Q)))
    return norms_Q


def _invalid_vector(x_QD: F32Array, row: int) -> InvalidVectorError:
    what = "holds NaN or infinity"
    if np.isfinite(x_QD[row]).all():
        what = "is zero, which has no direction" if not x_QD[row].any() else f"is longer than {_LARGEST_NORM:g}"
    return InvalidVectorError(f"vector {row} {what}; wanted finite values", metadata={"vector": str(row)})
