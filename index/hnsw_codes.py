"""What the graphs over coded vectors share: a shorter form is searched, and what is found is scored on the full one."""

from pathlib import Path
from typing import Any

from index.blas import load_faiss
from index.codes import check_range
from index.hnsw import GraphSearcher, HnswParams, check_graph, graph_bytes, graph_efforts
from index.ivf import check_shortlist
from index.kind import INDEX_FILE, Source
from index.storage import faiss_metric, read_faiss, write_faiss
from vicinal.types import Metric


class HnswCodesKind:
    """A graph over codes of FAISS's scalar quantiser.

    Args:
        code: FAISS's name of the code, such as ``QT_8bit``.
        bytes_per_value: bytes of one coded value.
        params_type: ``HnswParams`` with a field ``shortlist``.
    """

    effort_name = "efSearch"

    def __init__(self, code: str, *, bytes_per_value: int, params_type: type[HnswParams]) -> None:
        self._code = code
        self._bytes_per_value = bytes_per_value
        self.params_type: type = params_type

    def resolve(self, params: Any, *, count: int, dimension: int) -> Any:
        """Checks the parameters; see ``Kind``."""
        del count, dimension
        check_graph(params)
        check_shortlist(params.shortlist)
        return params

    def shortlist_factor(self, params: Any) -> int:
        """Returns the parameter ``shortlist``; see ``Kind``."""
        factor: int = params.shortlist
        return factor

    def efforts(self, params: Any, *, count: int) -> tuple[int, ...]:
        """Returns lengths of the search list; see ``Kind``."""
        del params
        return graph_efforts(count)

    def bytes_per_vector(self, params: Any, *, dimension: int) -> float:
        """Returns the bytes of a code and its links; see ``Kind``."""
        return self._bytes_per_value * dimension + graph_bytes(params)

    def build(self, source: Source, params: Any) -> None:
        """Builds the graph over the codes; see ``Kind``."""
        faiss = load_faiss()
        code, metric = getattr(faiss.ScalarQuantizer, self._code), faiss_metric(source.metric)
        faiss_index = faiss.IndexHNSWSQ(source.vectors_ND.shape[1], code, params.link_count, metric)
        faiss_index.train(source.vectors_ND)
        self._add(faiss_index, source, params)

    def extend(self, previous: Path, source: Source, params: Any) -> None:
        """Adds the new rows to the graph; see ``Kind``."""
        self._add(read_faiss(previous / INDEX_FILE, mapped=False), source, params)

    def open(self, directory: Path, *, metric: Metric) -> GraphSearcher:
        """Opens graph and codes, memory-mapped; see ``Kind``."""
        del metric
        return GraphSearcher(read_faiss(directory / INDEX_FILE))

    def _add(self, faiss_index: Any, source: Source, params: Any) -> None:
        new_ND = source.vectors_ND[faiss_index.ntotal :]
        check_range(new_ND, code=self._code)
        faiss_index.hnsw.efConstruction = params.build_effort
        faiss_index.add(new_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE)
