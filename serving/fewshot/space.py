"""The space in which few-shot classifiers work: embeddings less a centre, at unit length."""

import numpy as np

from vicinal.types import F32Array, I64Array

_TINY = 1e-12


def unit(x_ND: F32Array) -> F32Array:
    """Scales rows to unit length; a row of zeros stays as it is.

    Args:
        x_ND: float32 (N, D).

    Returns:
        float32 (N, D).
    """
    length_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    return np.asarray(x_ND / np.maximum(length_N1, _TINY), dtype=np.float32)


def centered(x_ND: F32Array, center_D: F32Array) -> F32Array:
    """Subtracts a centre and scales rows to unit length ("CL2N", SimpleShot, arXiv:1911.04623).

    Args:
        x_ND: embeddings, float32 (N, D).
        center_D: mean of the corpus or of the support, float32 (D,).

    Returns:
        float32 (N, D).
    """
    return unit(np.asarray(x_ND - center_D, dtype=np.float32))


def class_balanced_mean(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> F32Array:
    """Returns the mean of the class means.

    Args:
        x_ND: float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C; classes without rows are left out.

    Returns:
        float32 (D,).
    """
    count_C = np.bincount(y_N, minlength=class_count)
    weight_N = 1.0 / count_C[y_N]
    return np.asarray((weight_N @ x_ND) / weight_N.sum(), dtype=np.float32)


def class_sums(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> F32Array:
    """Returns the sum of the rows of each class.

    Args:
        x_ND: float32 (N, D).
        y_N: class numbers, int64 (N,).
        class_count: C.

    Returns:
        float32 (C, D).
    """
    sum_CD = np.zeros((class_count, x_ND.shape[1]), np.float32)
    order_N = np.argsort(y_N, kind="stable")
    present, first = np.unique(y_N[order_N], return_index=True)
    if present.size:
        sum_CD[present] = np.add.reduceat(x_ND[order_N], first, axis=0)
    return sum_CD


def one_hot(y_N: I64Array, *, class_count: int) -> F32Array:
    """Returns float32 (N, C) with a one in the column of each row's class."""
    t_NC = np.zeros((y_N.shape[0], class_count), np.float32)
    t_NC[np.arange(y_N.shape[0]), y_N] = 1.0
    return t_NC
