"""flat: no index, every query is compared with every vector; exact, and the default for small corpora."""

from dataclasses import dataclass
from pathlib import Path

from index.exact import exact_search
from index.kind import VECTORS_FILE, Source
from index.storage import map_vectors
from vicinal.types import F32Array, I64Array, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Flat has no parameters."""


class _Searcher:
    def __init__(self, directory: Path, metric: Metric) -> None:
        self._vectors_ND = map_vectors(directory / VECTORS_FILE)
        self._metric = metric

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        del effort
        return exact_search(x_QD, self._vectors_ND, metric=self._metric, neighbor_count=neighbor_count)[0]


class _Flat:
    params_type: type = Params
    effort_name = ""

    def resolve(self, params: Params, *, count: int, dimension: int) -> Params:
        del count, dimension
        return params

    def shortlist_factor(self, params: Params) -> int:
        del params
        return 1

    def efforts(self, params: Params, *, count: int) -> tuple[int, ...]:
        del params, count
        return (0,)

    def bytes_per_vector(self, params: Params, *, dimension: int) -> float:
        del params
        return 4.0 * dimension

    def build(self, source: Source, params: Params) -> None:
        """Writes nothing: the vectors are there."""

    def extend(self, previous: Path, source: Source, params: Params) -> None:
        """Writes nothing: the vectors are there."""

    def open(self, directory: Path, *, metric: Metric) -> _Searcher:
        return _Searcher(directory, metric)


KIND = _Flat()
