"""ivf_sq8: vectors in lists, each value in 8 bits; a short list is scored again on the full vectors."""

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from index.blas import load_faiss
from index.ivf import IvfKind, IvfParams, check_shortlist


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(IvfParams):
    """Parameters of an inverted file of 8-bit values."""

    shortlist: int = 2
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class _IvfSq8(IvfKind):
    params_type = Params

    @override
    def resolve(self, params: Params, *, count: int, dimension: int) -> Any:
        check_shortlist(params.shortlist)
        return super().resolve(params, count=count, dimension=dimension)

    @override
    def make(self, quantizer: Any, metric: int, params: Params) -> Any:
        faiss = load_faiss()
        kind = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexIVFScalarQuantizer(quantizer, quantizer.d, params.list_count, kind, metric)

    @override
    def code_bytes(self, params: Params, *, dimension: int) -> float:
        return float(dimension)


KIND = _IvfSq8()
