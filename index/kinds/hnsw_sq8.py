"""hnsw_sq8: a navigable graph over vectors of 8-bit values; a short list is scored again on the full vectors."""

from dataclasses import dataclass

from index.hnsw import HnswParams
from index.hnsw_codes import HnswCodesKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(HnswParams):
    """Parameters of a graph over 8-bit values."""

    shortlist: int = 2
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


KIND = HnswCodesKind("QT_8bit", bytes_per_value=1, params_type=Params)
