"""flat: no index, every query is compared with every vector; exact, and the default for small corpora."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.exact import exact_search, squared_norms
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
        self._norms_N = squared_norms(self._vectors_ND) if metric is Metric.L2 else None

    def search(
        self, x_QD: F32Array, *, neighbor_count: int, effort: int, selector: Any = None
    ) -> tuple[I64Array, F32Array]:
        del effort
        rows_M = None
        if selector is not None:
            members = (selector.is_member(row) for row in range(len(self._vectors_ND)))
            rows_M = np.flatnonzero(np.fromiter(members, dtype=np.bool_, count=len(self._vectors_ND)))
        rows_QK, scores_QK = exact_search(
            x_QD,
            self._vectors_ND,
            metric=self._metric,
            neighbor_count=neighbor_count,
            rows_M=rows_M,
            norms_N=self._norms_N,
        )
        return rows_QK, -scores_QK if self._metric is Metric.L2 else scores_QK


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
