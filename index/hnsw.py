"""What the graph kinds share: parameters, search; each kind adds where the vectors lie.

Malkov and Yashunin, arXiv:1603.09320, as FAISS builds it.
"""

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from index.searcher import FaissSearcher
from vicinal.errors import InvalidArgumentError


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


class GraphSearcher(FaissSearcher):
    """Searches a graph; effort is the length of the search list."""

    @override
    def parameters(self, *, neighbor_count: int, effort: int) -> Any:
        return self.faiss.SearchParametersHNSW(efSearch=max(effort, neighbor_count))
