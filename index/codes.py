"""What a shorter form of vectors can hold."""

import numpy as np

from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array

_BLOCK = 1 << 16
_HALF_PRECISION = "QT_fp16"


def check_range(x_ND: F32Array, *, code: str) -> None:
    """Refuses vectors with values that half precision has no number for.

    Args:
        x_ND: vectors, float32, finite; may be memory-mapped.
        code: FAISS's name of the code, such as ``QT_fp16``; others have no such limit.

    Raises:
        InvalidArgumentError: a value is too large.
    """
    most = float(np.finfo(np.float16).max)
    if code != _HALF_PRECISION:
        return
    for start in range(0, len(x_ND), _BLOCK):
        found = float(np.abs(x_ND[start : start + _BLOCK]).max(initial=0.0))
        if found > most:
            raise InvalidArgumentError(
                f"a vector has the value {found:g}, half precision ends at {most:,.0f}; choose a full kind",
                field="kind",
            )
