"""ivf_pq: vectors in lists, product-quantised to a few bytes; a short list is scored again on the full vectors.

Jegou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011, as FAISS has it.
"""

from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from index.blas import load_faiss
from index.ivf import IvfKind, IvfParams, check_codebook, check_shortlist, divide

_CODE_COUNT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(IvfParams):
    """Parameters of an inverted file of 8-bit product codes."""

    code_size: int = 0
    """Bytes of a code, each for an equal part of the vector; must divide D. 0: about D / 8."""
    shortlist: int = 10
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class _IvfPq(IvfKind):
    params_type = Params

    @override
    def resolve(self, params: Params, *, count: int, dimension: int) -> Any:
        check_shortlist(params.shortlist)
        check_codebook(count, code_count=_CODE_COUNT)
        wanted = params.code_size or max(1, dimension // 8)
        code_size = divide(dimension, wanted=wanted, field="code_size")
        return super().resolve(replace(params, code_size=code_size), count=count, dimension=dimension)

    @override
    def make(self, quantizer: Any, metric: int, params: Params) -> Any:
        return load_faiss().IndexIVFPQ(quantizer, quantizer.d, params.list_count, params.code_size, 8, metric)

    @override
    def code_bytes(self, params: Params, *, dimension: int) -> float:
        return float(params.code_size)


KIND = _IvfPq()
