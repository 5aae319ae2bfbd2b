"""The supporting examples nearest to a query, so that a person can see why."""

from dataclasses import dataclass

import numpy as np

from serving.fewshot.model import FewshotModel, Support
from vicinal.types import F32Array, I64Array, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The K supporting examples nearest to each of Q queries, negatives among them."""

    places_QK: I64Array
    """Positions in ``Support.origins``, best first, int64."""
    scores_QK: F32Array
    """Scores in the snapshot's metric, larger is closer, float32."""


def metric_scores(x_QD: F32Array, y_ND: F32Array, metric: Metric) -> F32Array:
    """Returns the scores of every pair in a metric, larger is closer, float32 (Q, N)."""
    if metric is Metric.L2:
        squares_Q1 = np.einsum("qd,qd->q", x_QD, x_QD)[:, None]
        return np.asarray(2.0 * (x_QD @ y_ND.T) - squares_Q1 - np.einsum("nd,nd->n", y_ND, y_ND), np.float32)
    if metric is Metric.COSINE:
        lengths_Q1 = np.linalg.norm(x_QD, axis=1, keepdims=True)
        lengths_N = np.linalg.norm(y_ND, axis=1)
        return np.asarray((x_QD @ y_ND.T) / np.maximum(lengths_Q1 * lengths_N, 1e-30), np.float32)
    return np.asarray(x_QD @ y_ND.T, np.float32)


def nearest(model: FewshotModel, x_QD: F32Array, *, count: int, metric: Metric) -> Nearest:
    """Finds the supporting examples nearest to queries.

    Args:
        model: whose support is searched.
        x_QD: queries, float32 (Q, D).
        count: examples wanted for each, at least 0; cut to what there is.
        metric: of the snapshot.

    Returns:
        Examples best first.
    """
    support: Support = model.support
    y_ND = np.concatenate([support.x_ND, support.negative_MD])
    count = min(count, y_ND.shape[0])
    if count == 0:
        empty_QK = np.zeros((x_QD.shape[0], 0), np.float32)
        return Nearest(places_QK=empty_QK.astype(np.int64), scores_QK=empty_QK)
    scores_QN = metric_scores(x_QD, y_ND, metric)
    places_QK = np.argpartition(-scores_QN, count - 1, axis=1)[:, :count]
    scores_QK = np.take_along_axis(scores_QN, places_QK, axis=1)
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")
    return Nearest(
        places_QK=np.take_along_axis(places_QK, order_QK, axis=1).astype(np.int64),
        scores_QK=np.take_along_axis(scores_QK, order_QK, axis=1),
    )
