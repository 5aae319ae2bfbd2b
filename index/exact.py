"""Exact search: every query against every item, blocked so that memory stays bounded.

One matrix product a block (NumPy's OpenBLAS, which knows current CPUs) and FAISS's threaded heaps
for the selection; the distances returned are then computed anew for the few rows that are kept,
because |x|^2 - 2xy + |y|^2 in float32 loses the small distances.
"""

from typing import Any

import numpy as np

from index.blas import load_faiss, threads_for
from vicinal.types import F32Array, I64Array, Metric

_BLOCK_FLOATS = 1 << 22
"""Scores held at once: 16 MiB, which stays in the caches that a core shares."""
_QUERY_BLOCK = 1024
_SMALL_WORK = 1 << 22
_SPARE_COUNT = 8
"""Rows kept beyond K, so that rounding in the product cannot lose a neighbour at the edge."""


def squared_norms(y_ND: F32Array) -> F32Array:
    """Returns the squared length of each row, float32 (N,), without a copy of the rows."""
    norms_N = np.empty(len(y_ND), dtype=np.float32)
    load_faiss().fvec_norms_L2sqr(_pointer(norms_N), _pointer(y_ND), y_ND.shape[1], len(y_ND))
    return norms_N


def pair_scores(x_QD: F32Array, y_ND: F32Array, rows_QK: I64Array, *, metric: Metric) -> F32Array:
    """Computes the scores of given rows for each query.

    Args:
        x_QD: queries, float32.
        y_ND: items, float32, C-contiguous; may be memory-mapped.
        rows_QK: rows of y_ND, int64; negative ones are skipped and score -inf.
        metric: how closeness is computed.

    Returns:
        Scores, float32 (Q, K), larger is closer.
    """
    faiss = load_faiss()
    x_QD, rows_QK = np.ascontiguousarray(x_QD), np.ascontiguousarray(rows_QK)
    scores_QK = np.empty(rows_QK.shape, dtype=np.float32)
    kernel = faiss.fvec_L2sqr_by_idx if metric is Metric.L2 else faiss.fvec_inner_products_by_idx
    query_count, row_count = rows_QK.shape
    pointers = (_pointer(scores_QK), _pointer(x_QD), _pointer(y_ND), _pointer(rows_QK))
    with threads_for(rows_QK.size * x_QD.shape[1]):
        kernel(*pointers, x_QD.shape[1], query_count, row_count)
    if metric is Metric.L2:
        np.negative(scores_QK, out=scores_QK)
    scores_QK[rows_QK < 0] = -np.inf
    return scores_QK


def best_first(rows_QK: I64Array, scores_QK: F32Array) -> tuple[I64Array, F32Array]:
    """Sorts each row by score, best first; equal scores in the order of the rows' numbers.

    Args:
        rows_QK: row numbers, int64; negative ones mean nothing and score -inf.
        scores_QK: scores, float32, larger is closer.
    """
    if len(rows_QK) == 1:
        order_K = np.lexsort((rows_QK[0], -scores_QK[0]))
        return rows_QK[:, order_K], scores_QK[:, order_K]
    order_QK = np.lexsort((rows_QK, -scores_QK), axis=1)
    return np.take_along_axis(rows_QK, order_QK, axis=1), np.take_along_axis(scores_QK, order_QK, axis=1)


def exact_search(
    x_QD: F32Array,
    y_ND: F32Array,
    *,
    metric: Metric,
    neighbor_count: int,
    rows_M: I64Array | None = None,
    norms_N: F32Array | None = None,
) -> tuple[I64Array, F32Array]:
    """Finds the nearest rows of each query by comparing it with all of them.

    Args:
        x_QD: queries, float32, finite.
        y_ND: items, float32, C-contiguous; may be memory-mapped.
        metric: how closeness is computed.
        neighbor_count: rows wanted, at least 1.
        rows_M: compare with these rows alone, int64, each once. Default: all.
        norms_N: ``squared_norms(y_ND)``, where the caller has them; only L2 uses them.

    Returns:
        Rows int64 (Q, K) and scores float32 (Q, K), best first, K = min(neighbor_count, rows).
    """
    total = len(y_ND) if rows_M is None else len(rows_M)
    count = min(neighbor_count, total)
    if count == 0 or len(x_QD) == 0:
        return np.empty((len(x_QD), count), np.int64), np.empty((len(x_QD), count), np.float32)
    if metric is Metric.L2 and norms_N is None and len(x_QD) * total * y_ND.shape[1] >= _SMALL_WORK:
        norms_N = squared_norms(y_ND)
    kept = min(count + _SPARE_COUNT, total)
    parts = []
    for start in range(0, len(x_QD), _QUERY_BLOCK):
        part_QD = np.ascontiguousarray(x_QD[start : start + _QUERY_BLOCK], dtype=np.float32)
        if len(part_QD) * total * y_ND.shape[1] < _SMALL_WORK:
            rows_QK = _scan_small(part_QD, y_ND if rows_M is None else y_ND[rows_M], kept, metric)
        else:
            heaps = Heaps(len(part_QD), kept)
            _scan(heaps, part_QD, y_ND, rows_M, norms_N if metric is Metric.L2 else None)
            rows_QK = heaps.finish()
        if rows_M is not None:
            rows_QK = rows_M[rows_QK]
        parts.append(best_first(rows_QK, pair_scores(part_QD, y_ND, rows_QK, metric=metric)))
    if len(parts) == 1:
        rows_QK, scores_QK = parts[0]
    else:
        rows_QK = np.concatenate([rows for rows, _ in parts])
        scores_QK = np.concatenate([scores for _, scores in parts])
    return np.ascontiguousarray(rows_QK[:, :count]), np.ascontiguousarray(scores_QK[:, :count])


class Heaps:
    """The best rows so far of each query: larger is better.

    Args:
        query_count: Q.
        kept: rows kept of each query, at least 1.
    """

    def __init__(self, query_count: int, kept: int) -> None:
        faiss = load_faiss()
        self._scores_QK = np.empty((query_count, kept), dtype=np.float32)
        self._rows_QK = np.empty((query_count, kept), dtype=np.int64)
        self._heaps = faiss.float_minheap_array_t()
        self._heaps.nh, self._heaps.k = query_count, kept
        self._heaps.val, self._heaps.ids = _pointer(self._scores_QK), _pointer(self._rows_QK)
        self._heaps.heapify()

    def add(self, scores_QN: F32Array, first_row: int) -> None:
        """Takes in scores, C-contiguous, of rows that follow each other."""
        query_count, row_count = scores_QN.shape
        self._heaps.addn(row_count, _pointer(scores_QN), first_row, 0, query_count)

    def finish(self) -> I64Array:
        """Returns the rows, best first, int64 (Q, K); -1 where fewer were seen."""
        self._heaps.reorder()
        return self._rows_QK


def _scan_small(x_QD: F32Array, y_ND: F32Array, kept: int, metric: Metric) -> I64Array:
    """Scans in this thread, by FAISS's own loop: a product in blocks pays only where there is more to multiply."""
    faiss = load_faiss()
    kind = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    with threads_for(0):
        rows_QK: I64Array = faiss.knn(x_QD, y_ND, kept, metric=kind)[1]
    return rows_QK


def _scan(heaps: Heaps, x_QD: F32Array, y_ND: F32Array, rows_M: I64Array | None, norms_N: F32Array | None) -> None:
    """Adds the score of every row to the heaps; for L2 the part that depends on the row: 2xy - |y|^2."""
    total = len(y_ND) if rows_M is None else len(rows_M)
    step = max(256, _BLOCK_FLOATS // len(x_QD))
    step = min(step, total, max(256, _BLOCK_FLOATS // y_ND.shape[1]) if rows_M is not None else total)
    buffer = np.empty(len(x_QD) * step, dtype=np.float32)
    doubled_QD = x_QD if norms_N is None else x_QD * np.float32(2)
    for start in range(0, total, step):
        stop = min(start + step, total)
        chosen: Any = slice(start, stop) if rows_M is None else rows_M[start:stop]
        scores_QN = buffer[: len(x_QD) * (stop - start)].reshape(len(x_QD), stop - start)
        np.matmul(doubled_QD, y_ND[chosen].T, out=scores_QN)
        if norms_N is not None:
            scores_QN -= norms_N[chosen]
        heaps.add(scores_QN, start)


def _pointer(array: Any) -> Any:
    return load_faiss().swig_ptr(array)
