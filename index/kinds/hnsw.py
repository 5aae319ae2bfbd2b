"""hnsw: a navigable graph over the full vectors; effort is the length of the search list (efSearch).

Malkov and Yashunin, arXiv:1603.09320, as FAISS builds it. The file holds the graph alone; the
vectors are read from the snapshot's own ``vectors.npy``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.blas import load_faiss
from index.kind import INDEX_FILE, VECTORS_FILE, Source
from index.storage import faiss_metric, flat_over_map, read_faiss, write_faiss
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array, I64Array, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters of the graph."""

    link_count: int = 32
    """Links of a node (M), 2 to 256; twice as many on the ground level."""
    build_effort: int = 100
    """Length of the candidate list while building (efConstruction), 8 to 10,000."""


class _Searcher:
    def __init__(self, directory: Path, metric: Metric) -> None:
        self._faiss = load_faiss()
        self._storage, self._memory = flat_over_map(directory / VECTORS_FILE, metric)
        self._index = read_faiss(directory / INDEX_FILE)
        self._index.storage, self._index.own_fields = self._storage, False

    def search(
        self, x_QD: F32Array, *, neighbor_count: int, effort: int, selector: Any = None
    ) -> tuple[I64Array, F32Array]:
        params = self._faiss.SearchParametersHNSW(efSearch=max(effort, neighbor_count), sel=selector)
        distances_QK, rows_QK = self._index.search(x_QD, neighbor_count, params=params)
        return rows_QK, distances_QK


class _Hnsw:
    params_type: type = Params
    effort_name = "efSearch"
    shortlist_factor = 1

    def resolve(self, params: Params, *, count: int, dimension: int) -> Params:
        del count, dimension
        for name, value, low, high in (
            ("link_count", params.link_count, 2, 256),
            ("build_effort", params.build_effort, 8, 10_000),
        ):
            if not low <= value <= high:
                raise InvalidArgumentError(f"{name} is {value}, wanted {low} to {high}", field=name)
        return params

    def efforts(self, params: Params, *, count: int) -> tuple[int, ...]:
        del params
        ladder = (10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
        return tuple(effort for effort in ladder if effort <= max(count, 10))

    def bytes_per_vector(self, params: Params, *, dimension: int) -> float:
        # Ground level 2 M links of 4 bytes; the levels above add about M / (M - 1) - 1 of M links; offsets 8.
        return 4.0 * dimension + 8.0 * params.link_count + 4.0 * params.link_count / (params.link_count - 1) + 12

    def build(self, source: Source, params: Params) -> None:
        faiss = load_faiss()
        metric = faiss_metric(source.metric)
        faiss_index = faiss.IndexHNSWFlat(source.vectors_ND.shape[1], params.link_count, metric)
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(source.vectors_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE, without_storage=True)

    def extend(self, previous: Path, source: Source, params: Params) -> None:
        faiss = load_faiss()
        faiss_index = read_faiss(previous / INDEX_FILE, mapped=False)
        known = faiss_index.ntotal
        storage = faiss.IndexFlat(faiss_index.d, faiss_metric(source.metric))
        storage.add(source.vectors_ND[:known])
        faiss_index.storage, faiss_index.own_fields = storage, False
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(source.vectors_ND[known:])
        write_faiss(faiss_index, source.directory / INDEX_FILE, without_storage=True)

    def open(self, directory: Path, *, metric: Metric) -> _Searcher:
        return _Searcher(directory, metric)


KIND = _Hnsw()
