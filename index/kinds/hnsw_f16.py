"""hnsw_f16: a navigable graph over vectors in half precision, which are read faster; scores are of the full vectors."""

from dataclasses import dataclass

from index.hnsw import HnswParams
from index.hnsw_codes import HnswCodesKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Params(HnswParams):
    """Parameters of a graph in half precision."""

    shortlist: int = 1
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: those that are wanted."""


KIND = HnswCodesKind("QT_fp16", bytes_per_value=2, params_type=Params)
