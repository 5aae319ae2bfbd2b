"""Measures an opened index against exact search: recall, latency and throughput at each effort.

Recall is tie-aware: a neighbour counts when its score is at least that of the K-th best, so that
two items at one distance are as good as each other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from index.curve import EXACT_EFFORT, RECALL_NEIGHBOR_COUNT, CurvePoint
from index.exact import exact_search, pair_scores
from index.snapshot import Snapshot
from vicinal.types import F32Array, I64Array, Metric

_TIE_TOLERANCE = 1e-5
_SINGLE_QUERY_COUNT = 200
ENOUGH_RECALL = 0.9995
"""Recall from which more effort has nothing more to gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Queries for a measurement, with what exact search finds for them."""

    x_QD: F32Array
    """Query vectors."""
    edge_Q: F32Array
    """Score of the K-th best item of each query: what is at least as good is a true neighbour."""
    neighbor_count: int
    """K."""
    how: str
    """How they were made, for the manifest."""


def perturbed_queries(x_ND: F32Array, *, metric: Metric, count: int, seed: int) -> F32Array:
    """Makes queries that lie where new items would: beside items, never on them.

    An item is moved by the difference of two near neighbours from elsewhere in the corpus, so that
    a query is about as far from its item as items are from their neighbours, in a direction in which the data varies.

    Args:
        x_ND: embeddings, float32, at least 1.
        metric: how closeness is computed; under cosine queries have unit length.
        count: queries wanted, at least 1.
        seed: seed of the choice.
    """
    rng = np.random.default_rng(seed)
    total = len(x_ND)
    centers_Q = rng.integers(total, size=count)
    donors_M = np.unique(rng.integers(total, size=min(64, total)))
    donors_MD = np.ascontiguousarray(x_ND[donors_M])
    # A donor's neighbours come from a sample: enough for a difference of the right size.
    sample_N = np.unique(rng.integers(total, size=min(total, 65_536)))
    pool_ND = np.ascontiguousarray(x_ND[sample_N])
    near_MK, _ = exact_search(donors_MD, pool_ND, metric=metric, neighbor_count=6)
    picks_Q = rng.integers(len(donors_M), size=count)
    ranks_Q = rng.integers(near_MK.shape[1], size=count)
    shift_QD = pool_ND[near_MK[picks_Q, ranks_Q]] - donors_MD[picks_Q]
    x_QD = np.ascontiguousarray(x_ND[centers_Q] + shift_QD, dtype=np.float32)
    if metric is Metric.COSINE:
        norms_Q = np.linalg.norm(x_QD, axis=1, keepdims=True)
        x_QD = np.where(norms_Q > 1e-6, x_QD / np.maximum(norms_Q, 1e-6), x_ND[centers_Q])
    return np.ascontiguousarray(x_QD, dtype=np.float32)


def with_truth(x_QD: F32Array, x_ND: F32Array, *, metric: Metric, how: str) -> Queries:
    """Finds the true neighbours of queries by exact search.

    Args:
        x_QD: queries, of unit length under cosine.
        x_ND: embeddings.
        metric: how closeness is computed.
        how: how the queries were made.
    """
    count = min(RECALL_NEIGHBOR_COUNT, len(x_ND))
    _, scores_QK = exact_search(x_QD, x_ND, metric=metric, neighbor_count=count)
    return Queries(x_QD=x_QD, edge_Q=scores_QK[:, -1], neighbor_count=count, how=how)


def recall_of(rows_QK: I64Array, x_ND: F32Array, queries: Queries, *, metric: Metric) -> float:
    """Returns the mean share of found rows that are true neighbours, tie-aware.

    Args:
        rows_QK: rows found, -1 where there is none.
        x_ND: embeddings.
        queries: the queries and their truth.
        metric: how closeness is computed.
    """
    scores_QK = pair_scores(queries.x_QD, x_ND, rows_QK, metric=metric)
    slack_Q = _TIE_TOLERANCE * np.maximum(np.abs(queries.edge_Q), 1e-6)
    return float((scores_QK >= (queries.edge_Q - slack_Q)[:, None]).mean())


def measure(
    search: Callable[[F32Array, int], I64Array], queries: Queries, x_ND: F32Array, *, metric: Metric, effort: int
) -> CurvePoint:
    """Measures one effort.

    Args:
        search: from queries and an effort to rows (Q, K), -1 where there is none.
        queries: the queries and their truth.
        x_ND: embeddings, for the recall.
        metric: how closeness is computed.
        effort: the effort.
    """
    search(queries.x_QD[:8], effort)
    start = time.perf_counter()
    rows_QK = search(queries.x_QD, effort)
    batch_s = time.perf_counter() - start
    singles_us = []
    for row in range(min(_SINGLE_QUERY_COUNT, len(queries.x_QD))):
        one_QD = queries.x_QD[row : row + 1]
        start = time.perf_counter()
        search(one_QD, effort)
        singles_us.append((time.perf_counter() - start) * 1e6)
    return CurvePoint(
        effort=effort,
        recall=recall_of(rows_QK, x_ND, queries, metric=metric),
        p50_us=round(float(np.percentile(singles_us, 50)), 1),
        p99_us=round(float(np.percentile(singles_us, 99)), 1),
        queries_per_second=round(len(queries.x_QD) / max(batch_s, 1e-9), 1),
    )


def measure_curve(
    search: Callable[[F32Array, int], I64Array],
    queries: Queries,
    x_ND: F32Array,
    *,
    metric: Metric,
    efforts: Sequence[int],
    enough: float = ENOUGH_RECALL,
) -> tuple[CurvePoint, ...]:
    """Measures efforts in ascending order, and stops where recall has nothing more to gain.

    Args:
        search: from queries and an effort to rows (Q, K), -1 where there is none.
        queries: the queries and their truth.
        x_ND: embeddings.
        metric: how closeness is computed.
        efforts: what to measure, ascending.
        enough: recall from which no more effort is measured.
    """
    curve: list[CurvePoint] = []
    for effort in efforts:
        point = measure(search, queries, x_ND, metric=metric, effort=effort)
        # More effort may measure a hair less; a reader of the curve wants recall to grow with effort.
        floor = curve[-1].recall if curve else 0.0
        curve.append(replace(point, recall=max(point.recall, floor)))
        if point.recall >= enough:
            break
    return tuple(curve)


def evaluate(
    snapshot: Snapshot, *, query_count: int = 1000, seed: int = 1, efforts: Sequence[int] | None = None
) -> tuple[Queries, tuple[CurvePoint, ...]]:
    """Measures a snapshot anew, with queries of another seed than its build used.

    Args:
        snapshot: what to measure.
        query_count: queries, at least 1.
        seed: seed of the queries; the build used 0.
        efforts: what to measure, ascending. Default: the efforts of its curve.

    Returns:
        The queries with their truth, and the measured curve.
    """
    x_QD = perturbed_queries(snapshot.vectors_ND, metric=snapshot.metric, count=query_count, seed=seed)
    queries = with_truth(x_QD, snapshot.vectors_ND, metric=snapshot.metric, how=f"perturbed, seed {seed}")

    def search(x_QD: F32Array, effort: int) -> I64Array:
        return snapshot.search(x_QD, neighbor_count=queries.neighbor_count, effort=effort).rows_QK

    if efforts is None:
        efforts = [point.effort for point in snapshot.curve] or [EXACT_EFFORT]
    curve = measure_curve(search, queries, snapshot.vectors_ND, metric=snapshot.metric, efforts=efforts)
    return queries, curve
