"""One query at a time with everything at hand: arrays, pointers and parameters are made once, not for each query.

A search takes some ten to a hundred microseconds; preparing a call of the general path takes as
many again. What is found here is, to the last bit, what the general path finds.
"""

from typing import Any

import numpy as np

from index.blas import load_faiss
from index.exact import best_first
from vicinal.types import BoolArray, F32Array, I64Array, Metric

_PLAIN_SQUARES = (1e-30, 1e30)


class SingleSearch:
    """Searches for one vector after the other, with one count and effort; for one thread alone.

    Args:
        faiss_index: a graph or an inverted file.
        params: the parameters of its search.
        vectors_ND: the full vectors, float32, C-contiguous; may be memory-mapped.
        metric: how closeness is computed.
        fetched_count: rows to take from the index, at least ``neighbor_count``.
        neighbor_count: neighbors wanted, at least 1.
    """

    def __init__(
        self,
        faiss_index: Any,
        params: Any,
        vectors_ND: F32Array,
        *,
        metric: Metric,
        fetched_count: int,
        neighbor_count: int,
    ) -> None:
        faiss = self._faiss = load_faiss()
        pointer, dimension = faiss.swig_ptr, vectors_ND.shape[1]
        self._x_QD: F32Array = np.empty((1, dimension), np.float32)
        self.query: memoryview = self._x_QD.reshape(-1).data.cast("B")
        """Where the query goes before ``search``: float32 in the order of this machine, writable bytes."""
        self._rows_QK: I64Array = np.empty((1, fetched_count), np.int64)
        self._scores_QK: F32Array = np.empty((1, fetched_count), np.float32)
        # A best score is followed by a smaller one; else the order is made by the rows' numbers.
        self._falls = bytearray(b"\1" * max(1, fetched_count - 1))
        falls_K: BoolArray = np.ndarray(fetched_count - 1, np.bool_, self._falls)
        self._order = (self._scores_QK[0, 1:], self._scores_QK[0, :-1], falls_K)
        self._metric = metric
        self._fetched_count = fetched_count
        self._neighbor_count = neighbor_count
        rows, scores, query = pointer(self._rows_QK), pointer(self._scores_QK), pointer(self._x_QD)
        self._call = (1, query, fetched_count, scores, rows, params)
        self._length = (query, dimension)
        self._pairs = (scores, query, pointer(vectors_ND), rows, dimension, 1, fetched_count)
        self._kernel = faiss.fvec_L2sqr_by_idx if metric is Metric.L2 else faiss.fvec_inner_products_by_idx
        self._search = faiss_index.search_c
        self._kept = (faiss_index, params, vectors_ND)

    def search(self) -> tuple[I64Array, F32Array] | None:
        """Finds the neighbors of ``query``.

        Returns:
            Rows int64 (K,) and scores float32 (K,), best first, valid until the next search; None where the query
            or what the index found needs the general path: a vector out of the plain, or too few neighbors.
        """
        x_QD, scores_QK, rows_QK = self._x_QD, self._scores_QK, self._rows_QK
        if not self._is_plain(x_QD):
            return None
        if self._faiss.omp_get_max_threads() > 1:
            # There is nothing to divide, and waking a thread takes as long as the search.
            self._faiss.omp_set_num_threads(1)
        self._search(*self._call)
        if rows_QK[0, -1] < 0:
            return None
        self._kernel(*self._pairs)
        if self._metric is Metric.L2:
            np.negative(scores_QK, out=scores_QK)
        later_K, earlier_K, falls_K = self._order
        count = self._neighbor_count
        np.less(later_K, earlier_K, out=falls_K)
        if self._fetched_count > count or 0 in self._falls:
            rows_QK, scores_QK = best_first(rows_QK, scores_QK)
        return rows_QK[0, :count], scores_QK[0, :count]

    def _is_plain(self, x_QD: F32Array) -> bool:
        if self._metric is not Metric.COSINE:
            # NaN and infinity compare as false.
            return bool(_PLAIN_SQUARES[0] < self._faiss.fvec_norm_L2sqr(*self._length) < _PLAIN_SQUARES[1])
        # The very sum of ``checked_queries``, so that the quotient has the same bits.
        norms_Q: Any = np.sqrt(np.einsum("qd,qd->q", x_QD, x_QD))
        if not 1e-15 < norms_Q[0] < 1e15:
            return False
        if np.abs(norms_Q - 1)[0] > 1e-6:
            np.divide(x_QD, norms_Q[:, None], out=x_QD)
        return True
