"""Nearest class mean: cosine to the mean of each class (Prototypical Networks, arXiv:1703.05175).

Differs: embeddings are frozen, centred and of unit length (SimpleShot, arXiv:1911.04623); the mean
is scaled to unit length too, and the similarity is a cosine with a fitted temperature.
"""

import numpy as np

from serving.fewshot.folds import folds
from serving.fewshot.head import Head, calibrated
from serving.fewshot.space import class_sums, unit
from vicinal.types import F32Array, I64Array

DESCRIPTION = "Cosine to the centred mean of each class; the best at one example a class, needs round classes."
PRIOR_TEMPERATURE = 0.13


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Fits class means.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head; its scores are cosines in [-1, 1].
    """
    sum_CD = class_sums(x_ND, y_N, class_count=class_count)
    mean_CD = unit(sum_CD)
    held_out_NC = np.full((x_ND.shape[0], class_count), np.nan, np.float32)
    for rows in folds(y_N):
        left_CD = sum_CD.copy()
        left_CD[y_N[rows]] -= x_ND[rows]  # a fold has no class twice
        held_out_NC[rows] = x_ND[rows] @ unit(left_CD).T
    return calibrated("prototype", lambda x_QD: x_QD @ mean_CD.T, held_out_NC, y_N, prior=PRIOR_TEMPERATURE)
