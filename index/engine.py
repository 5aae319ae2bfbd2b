"""Searches one index over one array of vectors: by its kind, or exactly; scores are larger for the closer.

An index gives rows; their scores are always computed from the full vectors, by one routine.
"""

from pathlib import Path

from index import kind as kinds
from index.curve import EXACT_EFFORT, RECALL_NEIGHBOR_COUNT
from index.device import Placement, open_on_gpu, resolve_device
from index.exact import best_first, exact_search, pair_scores, squared_norms
from index.searcher import FaissSearcher
from index.single import SingleSearch
from vicinal.types import F32Array, I64Array, JsonObject, Metric


class Engine:
    """An opened index with its vectors; safe for many threads at once.

    Args:
        directory: where the index and ``vectors.npy`` are.
        kind: name of its kind.
        params: its parameters, as the manifest has them.
        metric: how closeness is computed.
        vectors_ND: the vectors, memory-mapped.

    Raises:
        CorruptArtifactError: a file cannot be read; it is named.
    """

    def __init__(self, directory: Path, *, kind: str, params: JsonObject, metric: Metric, vectors_ND: F32Array) -> None:
        self._kind = kinds.load(kind)
        count, dimension = vectors_ND.shape
        resolved = kinds.make_params(self._kind, params, count=count, dimension=dimension)
        self._shortlist_factor = self._kind.shortlist_factor(resolved)
        self._metric = metric
        self._vectors_ND = vectors_ND
        self._norms_N: F32Array | None = None
        self._searcher: kinds.Searcher = self._kind.open(directory, metric=metric)

    def move_to(self, directory: Path, *, device: str, kind: str) -> None:
        """Puts the index on the GPUs, where they are asked for and there.

        Args:
            directory: where the index is.
            device: ``auto``, ``cpu`` or ``gpu``.
            kind: name of its kind.

        Raises:
            FailedPreconditionError: ``gpu`` where it cannot be.
        """
        if resolve_device(device, kind=kind) == "gpu":
            self._searcher = open_on_gpu(directory, placement=Placement())

    @property
    def is_concurrent(self) -> bool:
        """Whether searches may run beside each other; else one thread asks the index, and batches serve it best."""
        return bool(getattr(self._searcher, "is_concurrent", True))

    @property
    def is_exact(self) -> bool:
        """Whether the kind is exact at every effort."""
        return not self._kind.effort_name

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> tuple[I64Array, F32Array]:
        """Finds neighbours by the index; there may be fewer than asked for.

        Args:
            x_QD: queries that were checked.
            neighbor_count: K, at least 1 and at most the number of items.
            effort: search effort; 0 is exact search.

        Returns:
            Rows int64 (Q, K), -1 where there is none, and scores float32 (Q, K), best first. A pair has the same
            score, to the last bit, whichever way it was found.
        """
        if effort == EXACT_EFFORT or self.is_exact:
            return self.exact(x_QD, neighbor_count=neighbor_count)
        fetched = self._fetched_count(neighbor_count)
        rows_QK = self._searcher.search(x_QD, neighbor_count=fetched, effort=effort)
        scores_QK = pair_scores(x_QD, self._vectors_ND, rows_QK, metric=self._metric)
        if fetched > neighbor_count or not (scores_QK[:, 1:] < scores_QK[:, :-1]).all():
            rows_QK, scores_QK = best_first(rows_QK, scores_QK)
        return rows_QK[:, :neighbor_count], scores_QK[:, :neighbor_count]

    def single(self, *, neighbor_count: int, effort: int) -> SingleSearch | None:
        """Returns what searches for one vector after the other in one thread; None where the index has no such way.

        Args:
            neighbor_count: K, at least 1 and at most the number of items.
            effort: search effort; 0 is exact search.
        """
        if effort == EXACT_EFFORT or self.is_exact or not isinstance(self._searcher, FaissSearcher):
            return None
        fetched = self._fetched_count(neighbor_count)
        return self._searcher.single(
            self._vectors_ND,
            metric=self._metric,
            fetched_count=fetched,
            neighbor_count=neighbor_count,
            effort=effort,
        )

    def _fetched_count(self, neighbor_count: int) -> int:
        factor, total = self._shortlist_factor, len(self._vectors_ND)
        # The curve was measured for 10 neighbours: a shorter list would not reach its recall.
        return neighbor_count if factor == 1 else min(factor * max(neighbor_count, RECALL_NEIGHBOR_COUNT), total)

    def exact(
        self, x_QD: F32Array, *, neighbor_count: int, rows_M: I64Array | None = None
    ) -> tuple[I64Array, F32Array]:
        """Finds neighbours by comparing with every row, or with some.

        Args:
            x_QD: queries that were checked.
            neighbor_count: K, at least 1.
            rows_M: rows to compare with, each once. Default: all.

        Returns:
            Rows int64 and scores float32, (Q, min(K, rows)), best first; ties in the order of the rows.
        """
        if self._metric is Metric.L2 and self._norms_N is None:
            self._norms_N = squared_norms(self._vectors_ND)
        return exact_search(
            x_QD,
            self._vectors_ND,
            metric=self._metric,
            neighbor_count=neighbor_count,
            rows_M=rows_M,
            norms_N=self._norms_N,
        )
