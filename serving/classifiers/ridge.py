"""Ridge regression on one-hot targets, in closed form, with exact held-out predictions.

With hat matrix H and residuals r, the residuals of a fit without the rows G are
(I - H_GG)^-1 r_G exactly (for one row: r / (1 - h), PRESS, Allen 1974). The penalty minimises
PRESS; probabilities use folds that leave out one example of every class. Classes weigh the same
however many examples they have; the intercept is not penalised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.fewshot.folds import folds
from serving.fewshot.head import Head, calibrated
from serving.fewshot.space import one_hot
from vicinal.types import F32Array, I64Array

DESCRIPTION = "Linear: ridge regression in closed form; strong from 5 examples a class on, and fast."
PRIOR_TEMPERATURE = 0.11
PENALTIES = np.logspace(-3, 1.5, 19)
"""Penalties tried, relative to the mean eigenvalue."""
_PRESS_VALUES = 1 << 20
"""Residuals that are held at once while penalties are tried."""

_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RidgeFit:
    """The solution, in the basis in which the penalty is diagonal."""

    weight_DC: F32Array
    """Coefficients."""
    offset_C: F32Array
    """Intercept."""
    penalty: float
    """The penalty that minimised PRESS."""
    u_NR: _F64
    """Left singular vectors of the weighted, centred support."""
    shrink_R: _F64
    """e / (e + penalty) of each direction."""
    residual_NC: _F64
    """Weighted residuals of the full fit."""
    root_N: _F64
    """Square roots of the weights of the rows, which sum to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    a_ND: F32Array
    b_NC: _F64
    c_RC: _F64
    e_R: _F64
    u_NR: _F64
    root_N: _F64
    mean_D: F32Array
    mean_C: _F64


def solve(x_ND: F32Array, y_N: I64Array, *, class_count: int, penalty: float | None = None) -> RidgeFit:
    """Solves the weighted ridge regression.

    Args:
        x_ND: support, float32 (N, D).
        y_N: class numbers, int64 (N,).
        class_count: C.
        penalty: absolute penalty, above 0; None chooses by PRESS.
    """
    basis = _decompose(x_ND, y_N, class_count=class_count)
    return _at(basis, _by_press(basis) if penalty is None else penalty)


def held_out(fitted: RidgeFit, t_NC: F32Array, rows: I64Array) -> _F64:
    """Returns what a fit without those rows, at the same penalty and weights, predicts for them.

    Args:
        fitted: the full fit.
        t_NC: one-hot targets of all rows.
        rows: the rows to leave out together, int64 (G,), or several such groups, (F, G).

    Returns:
        float64 (G, C) or (F, G, C).
    """
    u_GR, root_G = fitted.u_NR[rows], fitted.root_N[rows]
    hat_GG = (u_GR * fitted.shrink_R) @ u_GR.swapaxes(-1, -2) + root_G[..., :, None] * root_G[..., None, :]
    gap_GG = (1.0 + 1e-9) * np.eye(rows.shape[-1]) - hat_GG
    residual_GC = np.linalg.solve(gap_GG, fitted.residual_NC[rows])
    held_GC: _F64 = t_NC[rows] - residual_GC / root_G[..., None]
    return held_GC


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Fits the regression.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head; its scores are fitted targets, about 1 for the class and 0 for the others.
    """
    return heads(x_ND, y_N, class_count=class_count, shares=(1.0,))[0]


def heads(x_ND: F32Array, y_N: I64Array, *, class_count: int, shares: Sequence[float]) -> list[Head]:
    """Fits the regression at several penalties, for little more than one takes.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.
        shares: penalties, as parts of the one of least PRESS.
    """
    basis = _decompose(x_ND, y_N, class_count=class_count)
    penalty, t_NC = _by_press(basis), one_hot(y_N, class_count=class_count)
    same_size: dict[int, list[I64Array]] = {}
    for rows in folds(y_N):
        same_size.setdefault(rows.size, []).append(rows)
    groups = [np.stack(parts) for parts in same_size.values()]
    return [_head(_at(basis, share * penalty), t_NC, y_N, groups) for share in shares]


def _head(fitted: RidgeFit, t_NC: F32Array, y_N: I64Array, groups: list[I64Array]) -> Head:
    held_out_NC = np.full(t_NC.shape, np.nan, np.float32)
    for rows_FG in groups:
        held_out_NC[rows_FG] = held_out(fitted, t_NC, rows_FG)

    def scores(x_QD: F32Array) -> F32Array:
        return x_QD @ fitted.weight_DC + fitted.offset_C

    return calibrated("ridge", scores, held_out_NC, y_N, prior=PRIOR_TEMPERATURE)


def _decompose(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> _Basis:
    t_NC = one_hot(y_N, class_count=class_count)
    weight_N = 1.0 / np.bincount(y_N, minlength=class_count)[y_N]
    root_N = np.sqrt(weight_N / weight_N.sum())
    mean_D, mean_C = (root_N**2).astype(np.float32) @ x_ND, root_N**2 @ t_NC
    a_ND = root_N.astype(np.float32)[:, None] * (x_ND - mean_D)
    b_NC = root_N[:, None] * (t_NC - mean_C)
    e_R, u_NR = _left_vectors(a_ND)
    c_RC = u_NR.T @ b_NC
    return _Basis(a_ND=a_ND, b_NC=b_NC, c_RC=c_RC, e_R=e_R, u_NR=u_NR, root_N=root_N, mean_D=mean_D, mean_C=mean_C)


def _at(basis: _Basis, penalty: float) -> RidgeFit:
    shrink_R = basis.e_R / (basis.e_R + penalty)
    v_NC = basis.u_NR @ (basis.c_RC / (basis.e_R + penalty)[:, None])
    weight_DC = basis.a_ND.T @ v_NC.astype(np.float32)
    return RidgeFit(
        weight_DC=weight_DC,
        offset_C=np.asarray(basis.mean_C - basis.mean_D @ weight_DC, dtype=np.float32),
        penalty=penalty,
        u_NR=basis.u_NR,
        shrink_R=shrink_R,
        residual_NC=basis.b_NC - basis.u_NR @ (shrink_R[:, None] * basis.c_RC),
        root_N=basis.root_N,
    )


def _left_vectors(a_ND: F32Array) -> tuple[_F64, _F64]:
    # N <= D: eigenvectors of the N x N Gram matrix; else of the D x D one, carried over.
    row_count, dimension = a_ND.shape
    if row_count <= dimension:
        e_R, u_NR = np.linalg.eigh((a_ND @ a_ND.T).astype(np.float64))
        return np.maximum(e_R, 0.0), u_NR
    e_R, v_DR = np.linalg.eigh((a_ND.T @ a_ND).astype(np.float64))
    kept = e_R > max(e_R.max(), 1e-30) * 1e-6  # below is the rounding of float32
    return e_R[kept], (a_ND @ v_DR[:, kept]) / np.sqrt(e_R[kept])


def _by_press(basis: _Basis) -> float:
    e_R, u_NR, c_RC, b_NC, root_N = basis.e_R, basis.u_NR, basis.c_RC, basis.b_NC, basis.root_N
    penalty_P = PENALTIES * max(float(e_R.sum()) / max(e_R.size, 1), 1e-12)
    squared_NR = u_NR**2
    press: list[float] = []
    step = max(1, _PRESS_VALUES // max(b_NC.size, e_R.size))
    for start in range(0, penalty_P.size, step):
        shrink_RP = e_R[:, None] / (e_R[:, None] + penalty_P[start : start + step])
        gap_NP = np.maximum(1.0 - squared_NR @ shrink_RP - root_N[:, None] ** 2, 1e-9)
        hat_NPC = u_NR @ (shrink_RP[:, :, None] * c_RC[:, None]).reshape(e_R.size, -1)
        residual_NPC = b_NC[:, None] - hat_NPC.reshape(*gap_NP.shape, -1)
        press += ((residual_NPC / gap_NP[:, :, None]) ** 2).sum(axis=(0, 2)).tolist()
    return float(penalty_P[int(np.argmin(press))])
