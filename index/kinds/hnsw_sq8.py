"""hnsw_sq8: a navigable graph over vectors of 8-bit values; a short list is scored again on the full vectors."""

from dataclasses import dataclass
from pathlib import Path

from index.blas import load_faiss
from index.hnsw import GraphSearcher, HnswParams, check_graph, graph_bytes, graph_efforts
from index.ivf import check_shortlist
from index.kind import INDEX_FILE, Source
from index.storage import faiss_metric, read_faiss, write_faiss
from vicinal.types import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(HnswParams):
    """Parameters of a graph over 8-bit values."""

    shortlist: int = 2
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class _HnswSq8:
    params_type: type = Params
    effort_name = "efSearch"

    def resolve(self, params: Params, *, count: int, dimension: int) -> Params:
        del count, dimension
        check_graph(params)
        check_shortlist(params.shortlist)
        return params

    def shortlist_factor(self, params: Params) -> int:
        return params.shortlist

    def efforts(self, params: Params, *, count: int) -> tuple[int, ...]:
        del params
        return graph_efforts(count)

    def bytes_per_vector(self, params: Params, *, dimension: int) -> float:
        return dimension + graph_bytes(params)

    def build(self, source: Source, params: Params) -> None:
        faiss = load_faiss()
        faiss_index = faiss.IndexHNSWSQ(
            source.vectors_ND.shape[1],
            faiss.ScalarQuantizer.QT_8bit,
            params.link_count,
            faiss_metric(source.metric),
        )
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.train(source.vectors_ND)
        faiss_index.add(source.vectors_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE)

    def extend(self, previous: Path, source: Source, params: Params) -> None:
        faiss_index = read_faiss(previous / INDEX_FILE, mapped=False)
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(source.vectors_ND[faiss_index.ntotal :])
        write_faiss(faiss_index, source.directory / INDEX_FILE)

    def open(self, directory: Path, *, metric: Metric) -> GraphSearcher:
        del metric
        return GraphSearcher(read_faiss(directory / INDEX_FILE))


KIND = _HnswSq8()
