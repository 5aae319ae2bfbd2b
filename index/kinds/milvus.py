"""milvus: the vectors lie in a Milvus server, whose index is searched; the best are scored on the full vectors here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from index.engines.milvus import Index, MilvusSearcher, point_alias, write_collection
from index.engines.milvus_place import new_place, read_place, write_place
from index.hnsw import HnswParams, check_graph, graph_bytes, graph_efforts
from index.ivf import check_shortlist, probe_efforts, resolve_list_count
from index.kind import Source
from vicinal.item_table import ITEMS, ItemTable
from vicinal.types import Metric

_EFFORT_NAMES = {"HNSW": "ef", "IVF_FLAT": "nprobe", "IVF_SQ8": "nprobe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(HnswParams):
    """Parameters of a collection."""

    uri: str = ""
    """Address of the server, such as ``http://127.0.0.1:19530``; the variable VICINAL_MILVUS_URI goes before it."""
    alias: str = "vicinal_active"
    """Alias that the published snapshot's collection has."""
    index_type: Literal["HNSW", "IVF_FLAT", "IVF_SQ8"] = "HNSW"
    """What Milvus builds over the vectors; link_count and build_effort are of HNSW."""
    list_count: int = 0
    """Lists of IVF, 1 to the number of items; 0: about 4 sqrt(N)."""
    shortlist: int = 1
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class _Milvus:
    params_type: type = Params
    effort_name = "effort"

    def resolve(self, params: Params, *, count: int, dimension: int) -> Params:
        del dimension
        check_graph(params)
        check_shortlist(params.shortlist)
        lists = 0 if params.index_type == "HNSW" else resolve_list_count(params.list_count, count=count)
        return replace(params, list_count=lists)

    def shortlist_factor(self, params: Params) -> int:
        return params.shortlist

    def efforts(self, params: Params, *, count: int) -> tuple[int, ...]:
        return graph_efforts(count) if params.index_type == "HNSW" else probe_efforts(params.list_count)

    def bytes_per_vector(self, params: Params, *, dimension: int) -> float:
        if params.index_type == "HNSW":
            return 4.0 * dimension + graph_bytes(params)
        return (1.0 if params.index_type == "IVF_SQ8" else 4.0) * dimension + 8

    def build(self, source: Source, params: Params) -> None:
        place = new_place(
            params.uri, count=len(source.vectors_ND), alias=params.alias, effort_name=_EFFORT_NAMES[params.index_type]
        )
        built: dict[str, int] = {"nlist": params.list_count}
        if params.index_type == "HNSW":
            built = {"M": params.link_count, "efConstruction": params.build_effort}
        ids: list[str] = []
        if (source.directory / ITEMS).is_file():
            ids = [str(name) for name in ItemTable(source.directory).column("item_id").to_pylist()]
        index = Index(index_type=params.index_type, params=built)
        write_collection(source.vectors_ND, item_ids=ids, metric=source.metric, index=index, place=place)
        write_place(source.directory, place)

    def extend(self, previous: Path, source: Source, params: Params) -> None:
        # A collection that is served never changes, and Milvus has no copy of one: all rows are written again.
        del previous
        self.build(source, params)

    def open(self, directory: Path, *, metric: Metric) -> MilvusSearcher:
        return MilvusSearcher(directory, metric=metric)

    def activate(self, directory: Path) -> None:
        """Points the alias at the collection of a snapshot that is being published."""
        point_alias(read_place(directory))


KIND = _Milvus()
