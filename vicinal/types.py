"""The shared vocabulary: shape letters, array types, scores and results.

Shape letters, used as suffixes of names of arrays and tensors everywhere:

    B  batch            N  items            K  neighbours
    V  views            Q  queries          C  classes or channels (of an image: BCHW)
    D  dimensions       H, W  height and width in pixels
"""

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]
U8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
JsonObject = dict[str, Any]


class Metric(enum.StrEnum):
    """How the closeness of two embeddings is computed; a score is always larger for the closer."""

    COSINE = "cosine"
    """Cosine similarity, in [-1, 1]; embeddings are stored with unit length."""
    INNER_PRODUCT = "inner_product"
    """Inner product, unbounded."""
    L2 = "l2"
    """Negated squared Euclidean distance, at most 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """Names the snapshot that answered."""

    name: str
    """Resource name, such as ``snapshots/000007``."""
    fingerprint: str
    """64 lower-case hexadecimal digits; embeddings compare only within one fingerprint."""
    generation: int
    """Number of the activation that put the snapshot in service; it only grows."""
    delta_number: int = 0
    """Number of the last change of items (``upsert_items``, ``delete_items``) that the answer holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors:
    """The neighbours of Q queries, best first, with the number that is valid in each row."""

    rows_QK: I64Array
    """Row numbers in the snapshot, int64; what lies beyond ``counts_Q`` has no meaning."""
    scores_QK: F32Array
    """Scores, float32, larger is closer."""
    counts_Q: I64Array
    """Valid neighbours of each query, int64, in [0, K]."""
