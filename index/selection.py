"""Search among the rows that match a filter: always min(K, matching), scored on the full vectors.

Few rows are all scored ("gather"). Of many, each query scores those in its nearest lists until it
has seen as many as were needed for the recall when the snapshot was built ("index"). Where nearly
all match, the index itself is asked for more than is wanted ("overfetch").
"""

import functools
from dataclasses import dataclass

import numpy as np

from index.coarse import Coarse
from index.exact import best_first, exact_search, pair_scores
from vicinal.types import BoolArray, F32Array, I64Array, Metric, Neighbors

GATHER_FLOATS = 1 << 20
"""Rows x D up to which every matching row is scored: 4 MiB."""
FILTER_RECALL = 0.995
"""Recall for which the rows to be seen were counted when the snapshot was built."""
OVERFETCH_SHARE = 0.7
"""Share of matching items above which the index is asked for more than is wanted."""
_CACHED_FLOATS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    rows_M: I64Array
    """Matching rows, list after list."""
    starts_C: I64Array
    """Where each list starts in rows_M, with the end behind the last."""


class Selection:
    """The rows that match a filter, ready to be searched; immutable, safe for many threads.

    Args:
        mask_N: which rows match.
        vectors_ND: embeddings.
        metric: how closeness is computed.
        coarse: lists of the snapshot, None for a small one.
    """

    def __init__(self, mask_N: BoolArray, *, vectors_ND: F32Array, metric: Metric, coarse: Coarse | None) -> None:
        self.mask_N = mask_N
        self.rows_M: I64Array = np.flatnonzero(mask_N).astype(np.int64)
        self._vectors_ND = vectors_ND
        self._metric = metric
        self._coarse = coarse

    @property
    def count(self) -> int:
        """Rows that match."""
        return len(self.rows_M)

    @property
    def share(self) -> float:
        """Share of all rows that match."""
        return self.count / max(1, len(self.mask_N))

    def is_gathered(self, candidate_count: int) -> bool:
        """Returns whether a search scores every matching row.

        Args:
            candidate_count: rows that a query must see; see ``search``.
        """
        small = self.count * self._vectors_ND.shape[1] <= GATHER_FLOATS
        return self._coarse is None or small or self.count <= 2 * candidate_count

    @functools.cached_property
    def _gathered(self) -> F32Array | None:
        # A filter that comes again finds its rows side by side, if they are few.
        if self.count * self._vectors_ND.shape[1] > _CACHED_FLOATS:
            return None
        return np.ascontiguousarray(self._vectors_ND[self.rows_M])

    @functools.cached_property
    def _walk(self) -> _Walk:
        assert self._coarse is not None, "asked only where there are lists"
        lists_M = self._coarse.lists_N[self.rows_M]
        order_M = np.argsort(lists_M, kind="stable")
        starts_C = np.searchsorted(lists_M[order_M], np.arange(len(self._coarse.centroids_CD) + 1))
        return _Walk(rows_M=self.rows_M[order_M], starts_C=starts_C.astype(np.int64))

    def search(self, x_QD: F32Array, *, neighbor_count: int, candidate_count: int) -> Neighbors:
        """Finds neighbours among the matching rows.

        Args:
            x_QD: queries that were checked.
            neighbor_count: K, at least 1.
            candidate_count: rows that each query scores at least, where it does not score all that match.

        Returns:
            min(K, matching) neighbours of each query, best first.
        """
        wanted = min(neighbor_count, self.count)
        if wanted and not self.is_gathered(max(candidate_count, neighbor_count)):
            found = [self._near(x_QD[q : q + 1], wanted, max(candidate_count, 10 * wanted)) for q in range(len(x_QD))]
            rows_QK = np.concatenate([rows for rows, _ in found]) if found else np.zeros((0, wanted), np.int64)
            scores_QK = np.concatenate([scores for _, scores in found]) if found else np.zeros((0, wanted), np.float32)
        else:
            rows_QK, scores_QK = self._all(x_QD, wanted)
        return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=np.full(len(x_QD), wanted, np.int64))

    def _all(self, x_QD: F32Array, wanted: int) -> tuple[I64Array, F32Array]:
        if self._gathered is None:
            rows_M = self.rows_M
            return exact_search(x_QD, self._vectors_ND, metric=self._metric, neighbor_count=wanted, rows_M=rows_M)
        places_QK, scores_QK = exact_search(x_QD, self._gathered, metric=self._metric, neighbor_count=wanted)
        return self.rows_M[places_QK], scores_QK

    def _near(self, x_1D: F32Array, wanted: int, candidate_count: int) -> tuple[I64Array, F32Array]:
        assert self._coarse is not None, "asked only where there are lists"
        walk = self._walk
        order_C = self._coarse.nearest(x_1D[0], metric=self._metric)
        sizes_C = (walk.starts_C[1:] - walk.starts_C[:-1])[order_C]
        probed = int(np.searchsorted(sizes_C.cumsum(), candidate_count)) + 1
        chosen = order_C[:probed]
        parts = [walk.rows_M[walk.starts_C[number] : walk.starts_C[number + 1]] for number in chosen]
        rows_1M = np.concatenate(parts)[None, :]
        scores_1M = pair_scores(x_1D, self._vectors_ND, rows_1M, metric=self._metric)
        if rows_1M.shape[1] > 4 * wanted:
            best_K = np.argpartition(scores_1M[0], -wanted)[-wanted:]
            rows_1M, scores_1M = rows_1M[:, best_K], scores_1M[:, best_K]
        rows_1K, scores_1K = best_first(rows_1M, scores_1M)
        return rows_1K[:, :wanted], scores_1K[:, :wanted]
