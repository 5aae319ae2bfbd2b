"""What searchers of FAISS's indexes share; each adds what effort means to it."""

import abc
from typing import Any

from index.blas import load_faiss
from index.single import SingleSearch
from vicinal.types import F32Array, I64Array, Metric


class FaissSearcher(abc.ABC):
    """Searches an index in this process.

    Args:
        faiss_index: the index.
        memory: what it reads, to be kept alive.
    """

    def __init__(self, faiss_index: Any, memory: Any = None) -> None:
        self.faiss = load_faiss()
        self.index = faiss_index
        self._memory = memory

    @abc.abstractmethod
    def parameters(self, *, neighbor_count: int, effort: int) -> Any:
        """Returns FAISS's parameters of a search.

        Args:
            neighbor_count: rows to take from the index.
            effort: search effort, at least 1.
        """

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows; see ``Searcher``."""
        params = self.parameters(neighbor_count=neighbor_count, effort=effort)
        rows_QK: I64Array = self.index.search(x_QD, neighbor_count, params=params)[1]
        return rows_QK

    def single(
        self, vectors_ND: F32Array, *, metric: Metric, fetched_count: int, neighbor_count: int, effort: int
    ) -> SingleSearch:
        """Returns what searches for one vector after the other; for one thread alone.

        Args:
            vectors_ND: the full vectors, float32.
            metric: how closeness is computed.
            fetched_count: rows to take from the index.
            neighbor_count: neighbors wanted.
            effort: search effort, at least 1.
        """
        params = self.parameters(neighbor_count=fetched_count, effort=effort)
        return SingleSearch(
            self.index, params, vectors_ND, metric=metric, fetched_count=fetched_count, neighbor_count=neighbor_count
        )
