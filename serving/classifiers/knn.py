"""Weighted nearest neighbours: votes exp(cosine / 0.07) of the 20 nearest (arXiv:1805.01978, section 3.4).

Differs: embeddings are centred; the votes of a class are divided by its number of examples, so that
a class with more examples is not favoured; probabilities come from the logarithm of the vote share
with a fitted temperature.
"""

import numpy as np

from serving.fewshot.folds import fold_numbers, folds
from serving.fewshot.head import Head, calibrated
from serving.fewshot.space import one_hot
from vicinal.types import F32Array, I64Array

DESCRIPTION = "Votes of the 20 nearest examples, weighted by closeness; for classes of many faces."
PRIOR_TEMPERATURE = 1.1
NEIGHBOR_COUNT = 20
VOTE_TEMPERATURE = 0.07
_FLOOR = 1e-3
"""Share of the votes that every class has at least, so that none is impossible."""
_CHUNK_VALUES = 1 << 25


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Keeps the support.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head; its scores are logarithms of vote shares.
    """
    count_C = np.maximum(np.bincount(y_N, minlength=class_count), 1)
    weight_NC = np.asarray(one_hot(y_N, class_count=class_count) / count_C, dtype=np.float32)

    def scores(x_QD: F32Array) -> F32Array:
        step = max(1, _CHUNK_VALUES // max(x_ND.shape[0], NEIGHBOR_COUNT * class_count))
        parts = [_shares(x_QD[i : i + step] @ x_ND.T, weight_NC) for i in range(0, len(x_QD), step)]
        return np.concatenate(parts) if parts else np.zeros((0, class_count), np.float32)

    held_out_NC = _held_out(x_ND, y_N, weight_NC, count_C)
    return calibrated("knn", scores, held_out_NC, y_N, prior=PRIOR_TEMPERATURE)


def _held_out(x_ND: F32Array, y_N: I64Array, weight_NC: F32Array, count_C: I64Array) -> F32Array:
    fold_N = fold_numbers(y_N)
    held_out_NC = np.full(weight_NC.shape, np.nan, np.float32)
    parts = list(folds(y_N))
    if not parts:
        return held_out_NC
    rows_J = np.concatenate(parts)
    # A fold takes one example from each class that reaches it; the votes of the others then weigh more.
    left_JC = np.maximum(count_C - (fold_N[rows_J][:, None] < count_C), 1)
    scale_JC = np.asarray(count_C / left_JC, dtype=np.float32)
    step = max(1, _CHUNK_VALUES // max(x_ND.shape[0], NEIGHBOR_COUNT * weight_NC.shape[1]))
    for start in range(0, rows_J.size, step):
        rows = rows_J[start : start + step]
        sim_JN = x_ND[rows] @ x_ND.T
        sim_JN[fold_N[rows][:, None] == fold_N] = -np.inf
        held_out_NC[rows] = _shares(sim_JN, weight_NC, scale_JC[start : start + step])
    return held_out_NC


def _shares(sim_QN: F32Array, weight_NC: F32Array, scale_QC: F32Array | None = None) -> F32Array:
    count = min(NEIGHBOR_COUNT, sim_QN.shape[1])
    near_QK = np.argpartition(sim_QN, -count, axis=1)[:, -count:]
    sim_QK = np.take_along_axis(sim_QN, near_QK, axis=1)
    vote_QK = np.exp((sim_QK - sim_QK.max(axis=1, keepdims=True)) / np.float32(VOTE_TEMPERATURE))
    vote_QC = np.matmul(vote_QK[:, None], weight_NC[near_QK])[:, 0]
    if scale_QC is not None:
        vote_QC *= scale_QC
    share_QC = vote_QC / np.maximum(vote_QC.sum(axis=1, keepdims=True), 1e-30)
    return np.asarray(np.log(share_QC + _FLOOR), dtype=np.float32)
