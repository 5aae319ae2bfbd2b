"""What the graph kinds share: parameters, search; each kind adds where the vectors lie.

Malkov and Yashunin, arXiv:1603.09320, as FAISS builds it.
"""

from dataclasses import dataclass
from typing import Any

from index.blas import load_faiss
from index.single import SingleSearch
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array, I64Array, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class HnswParams:
    """Parameters of the graph."""

    link_count: int = 32
    """Links of a node (M), 2 to 256; twice as many on the ground level."""
    build_effort: int = 100
    """Length of the candidate list while building (efConstruction), 8 to 10,000."""


def check_graph(params: HnswParams) -> None:
    """Refuses parameters that are out of range.

    Raises:
        InvalidArgumentError: a parameter is out of range; it is named.
    """
    for name, value, low, high in (
        ("link_count", params.link_count, 2, 256),
        ("build_effort", params.build_effort, 8, 10_000),
    ):
        if not low <= value <= high:
            raise InvalidArgumentError(f"{name} is {value}, wanted {low} to {high}", field=name)


def graph_efforts(count: int) -> tuple[int, ...]:
    """Returns the lengths of the search list that are worth measuring."""
    ladder = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
    return tuple(effort for effort in ladder if effort <= max(count, 10))


def graph_bytes(params: HnswParams) -> float:
    """Returns the bytes of one node's links: 2 M on the ground level, M / (M - 1) above on average, and offsets."""
    return 8.0 * params.link_count + 4.0 * params.link_count / (params.link_count - 1) + 12


class GraphSearcher:
    """Searches a graph; effort is the length of the search list.

    Args:
        faiss_index: the graph with its storage.
        memory: what the storage reads, to be kept alive.
    """

    def __init__(self, faiss_index: Any, memory: Any = None) -> None:
        self._faiss = load_faiss()
        self._index = faiss_index
        self._memory = memory

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows; see ``Searcher``."""
        params = self._faiss.SearchParametersHNSW(efSearch=max(effort, neighbor_count))
        rows_QK: I64Array = self._index.search(x_QD, neighbor_count, params=params)[1]
        return rows_QK

    def single(
        self, vectors_ND: F32Array, *, metric: Metric, fetched_count: int, neighbor_count: int, effort: int
    ) -> SingleSearch:
        """Returns what searches for one vector after the other; for one thread alone.

        Args:
            vectors_ND: the full vectors, float32.
            metric: how closeness is computed.
            fetched_count: rows to take from the graph.
            neighbor_count: neighbors wanted.
            effort: search effort, at least 1.
        """
        params = self._faiss.SearchParametersHNSW(efSearch=max(effort, fetched_count))
        return SingleSearch(
            self._index, params, vectors_ND, metric=metric, fetched_count=fetched_count, neighbor_count=neighbor_count
        )
