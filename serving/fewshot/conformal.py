"""Conformal sets: labels that together hold the truth with a level asked for.

Split conformal prediction with the score 1 - p of the true class (LAC; Sadinle, Lei and Wasserman,
arXiv:1609.00451) on held-out probabilities of the support. The level holds on average over draws of
support and query, for queries that come from the classes and are like the support.
"""

import numpy as np

from vicinal.types import BoolArray, F32Array, I64Array


def nonconformity(held_out_NC: F32Array, y_N: I64Array) -> F32Array:
    """Returns 1 - p of the true class for each row that was judged, ascending, float32.

    Args:
        held_out_NC: held-out probabilities, float32 (N, C), NaN where not judged.
        y_N: class numbers, int64 (N,).
    """
    p_N = held_out_NC[np.arange(y_N.shape[0]), y_N]
    return np.sort(1.0 - p_N[np.isfinite(p_N)])


def quantile(scores_J: F32Array, level: float) -> float:
    """Returns the largest score that a set of this level admits; infinite when there are too few.

    Args:
        scores_J: from ``nonconformity``.
        level: in (0, 1).
    """
    rank = int(np.ceil((scores_J.size + 1) * level))
    return float(scores_J[rank - 1]) if rank <= scores_J.size else float("inf")


def member_mask(p_QC: F32Array, limit: float) -> BoolArray:
    """Returns which labels are in the set of each query; the most probable always is.

    Args:
        p_QC: calibrated probabilities, float32 (Q, C).
        limit: from ``quantile``.

    Returns:
        bool (Q, C).
    """
    mask_QC = (1.0 - p_QC) <= limit
    mask_QC[np.arange(p_QC.shape[0]), p_QC.argmax(axis=1)] = True
    return mask_QC
