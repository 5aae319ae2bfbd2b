"""ivf_pq_fastscan: 4-bit product codes compared in registers; a short list is scored again on the full vectors.

Andre, Kermarrec and Le Scouarnec, "Cache locality is not enough", VLDB 2015, as FAISS has it.
"""

from dataclasses import dataclass, replace
from typing import Any

from typing_extensions import override

from index.blas import load_faiss
from index.ivf import IvfKind, IvfParams, check_codebook, check_shortlist, divide

_CODES_TOGETHER = 32
_CODE_COUNT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(IvfParams):
    """Parameters of an inverted file of 4-bit product codes."""

    part_count: int = 0
    """Parts that the vector is cut into, half a byte each; must divide D. 0: about D / 2."""
    shortlist: int = 10
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class _IvfPqFastScan(IvfKind):
    params_type = Params

    @override
    def resolve(self, params: Params, *, count: int, dimension: int) -> Any:
        check_shortlist(params.shortlist)
        check_codebook(count, code_count=_CODE_COUNT)
        wanted = params.part_count or max(1, dimension // 2)
        part_count = divide(dimension, wanted=wanted, field="part_count")
        return super().resolve(replace(params, part_count=part_count), count=count, dimension=dimension)

    @override
    def make(self, quantizer: Any, metric: int, params: Params) -> Any:
        faiss = load_faiss()
        faiss_index = faiss.IndexIVFPQFastScan(
            quantizer, quantizer.d, params.list_count, params.part_count, 4, metric, _CODES_TOGETHER
        )
        # One table for all lists of a query. Under the inner product a list adds but a constant to it, so what is
        # coded is the rest to the list's centre; under L2 that would want a table a list, and the shortlist wins
        # back what is lost.
        faiss_index.by_residual = metric == faiss.METRIC_INNER_PRODUCT
        return faiss_index

    @override
    def code_bytes(self, params: Params, *, dimension: int) -> float:
        return params.part_count / 2


KIND = _IvfPqFastScan()
