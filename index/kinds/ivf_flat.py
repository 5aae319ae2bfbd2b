"""ivf_flat: vectors in the lists of their nearest centroid, uncoded; effort is the lists probed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from index.blas import load_faiss
from index.ivf import IvfSearcher, build_ivf, extend_ivf, open_ivf, probe_efforts, resolve_list_count
from index.kind import Source
from vicinal.types import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Parameters of an inverted file."""

    list_count: int = 0
    """Lists (nlist), 1 to the number of items; 0: about 4 sqrt(N)."""


class _IvfFlat:
    params_type: type = Params
    effort_name = "nprobe"
    shortlist_factor = 1

    def resolve(self, params: Params, *, count: int, dimension: int) -> Params:
        del dimension
        return replace(params, list_count=resolve_list_count(params.list_count, count=count))

    def efforts(self, params: Params, *, count: int) -> tuple[int, ...]:
        del count
        return probe_efforts(params.list_count)

    def bytes_per_vector(self, params: Params, *, dimension: int) -> float:
        del params
        return 4.0 * dimension + 8

    def build(self, source: Source, params: Params) -> None:
        def make(quantizer: Any, metric: int) -> Any:
            faiss = load_faiss()
            return faiss.IndexIVFFlat(quantizer, quantizer.d, params.list_count, metric)

        build_ivf(source, make)

    def extend(self, previous: Path, source: Source, params: Params) -> None:
        del params
        extend_ivf(previous, source)

    def open(self, directory: Path, *, metric: Metric) -> IvfSearcher:
        return open_ivf(directory, metric=metric)


KIND = _IvfFlat()
