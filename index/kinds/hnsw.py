"""hnsw: a navigable graph over the full vectors; effort is the length of the search list (efSearch).

The file holds the graph alone; the vectors are read from the snapshot's own ``vectors.npy``.
"""

from pathlib import Path

from index.blas import load_faiss
from index.hnsw import GraphSearcher, HnswParams, check_graph, graph_bytes, graph_efforts
from index.kind import INDEX_FILE, VECTORS_FILE, Source
from index.storage import faiss_metric, flat_over_map, read_faiss, write_faiss
from vicinal.types import Metric


class _Hnsw:
    params_type: type = HnswParams
    effort_name = "efSearch"

    def resolve(self, params: HnswParams, *, count: int, dimension: int) -> HnswParams:
        del count, dimension
        check_graph(params)
        return params

    def shortlist_factor(self, params: HnswParams) -> int:
        del params
        return 1

    def efforts(self, params: HnswParams, *, count: int) -> tuple[int, ...]:
        del params
        return graph_efforts(count)

    def bytes_per_vector(self, params: HnswParams, *, dimension: int) -> float:
        return 4.0 * dimension + graph_bytes(params)

    def build(self, source: Source, params: HnswParams) -> None:
        faiss = load_faiss()
        dimension = source.vectors_ND.shape[1]
        faiss_index = faiss.IndexHNSWFlat(dimension, params.link_count, faiss_metric(source.metric))
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(source.vectors_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE, without_storage=True)

    def extend(self, previous: Path, source: Source, params: HnswParams) -> None:
        faiss = load_faiss()
        faiss_index = read_faiss(previous / INDEX_FILE, mapped=False)
        known = faiss_index.ntotal
        storage = faiss.IndexFlat(faiss_index.d, faiss_metric(source.metric))
        storage.add(source.vectors_ND[:known])
        faiss_index.storage, faiss_index.own_fields = storage, False
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(source.vectors_ND[known:])
        write_faiss(faiss_index, source.directory / INDEX_FILE, without_storage=True)

    def open(self, directory: Path, *, metric: Metric) -> GraphSearcher:
        storage, memory = flat_over_map(directory / VECTORS_FILE, metric)
        faiss_index = read_faiss(directory / INDEX_FILE)
        faiss_index.storage, faiss_index.own_fields = storage, False
        return GraphSearcher(faiss_index, (storage, memory))


KIND = _Hnsw()
