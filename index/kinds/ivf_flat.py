"""ivf_flat: vectors in the lists of their nearest centroid, uncoded; effort is the lists probed."""

from typing import Any

from typing_extensions import override

from index.blas import load_faiss
from index.ivf import IvfKind, IvfParams


class _IvfFlat(IvfKind):
    @override
    def make(self, quantizer: Any, metric: int, params: IvfParams) -> Any:
        return load_faiss().IndexIVFFlat(quantizer, quantizer.d, params.list_count, metric)

    @override
    def code_bytes(self, params: IvfParams, *, dimension: int) -> float:
        return 4.0 * dimension


KIND = _IvfFlat()
