"""Multinomial logistic regression with an L2 penalty, classes weighing the same.

Solved in the principal axes of the support, where the bound of Boehning (1992, "Multinomial
logistic regression algorithm") makes the Hessian diagonal: each step divides the gradient by
e/2 + penalty, with Nesterov's momentum and restarts. Held-out scores come from five stratified folds.
"""

import numpy as np

from serving.fewshot.folds import fold_numbers
from serving.fewshot.head import Head, calibrated, softmax
from serving.fewshot.space import one_hot
from vicinal.types import F32Array, I64Array

DESCRIPTION = "Linear: logistic regression; as good as ridge from 20 examples a class on, slower to fit."
PRIOR_TEMPERATURE = 1.0
INVERSE_PENALTY = 30.0
"""The penalty is 1 / (this times the number of examples)."""
_FOLD_COUNT = 5
_STEP_LIMIT = 300
_TOLERANCE = 1e-5


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Fits the regression.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head; its scores are logits.
    """
    weight_EC = _solve(x_ND, y_N, class_count=class_count)
    held_out_NC = np.full((x_ND.shape[0], class_count), np.nan, np.float32)
    group_N = fold_numbers(y_N) % _FOLD_COUNT
    judged_N = np.bincount(y_N, minlength=class_count)[y_N] > 1
    for group in range(_FOLD_COUNT):
        rows, kept = np.flatnonzero((group_N == group) & judged_N), np.flatnonzero((group_N != group) | ~judged_N)
        if rows.size:
            left_EC = _solve(x_ND[kept], y_N[kept], class_count=class_count)
            held_out_NC[rows] = _with_one(x_ND[rows]) @ left_EC
    return calibrated("logistic", lambda x_QD: _with_one(x_QD) @ weight_EC, held_out_NC, y_N, prior=PRIOR_TEMPERATURE)


def _with_one(x_ND: F32Array) -> F32Array:
    return np.concatenate([x_ND, np.ones((x_ND.shape[0], 1), np.float32)], axis=1)


def _solve(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> F32Array:
    x_NE = _with_one(x_ND)
    share_N = 1.0 / np.bincount(y_N, minlength=class_count)[y_N]
    share_N = (share_N / share_N.sum()).astype(np.float32)
    _, _, basis_RE = np.linalg.svd(np.sqrt(share_N)[:, None] * x_NE, full_matrices=False)
    z_NR = x_NE @ basis_RE.T
    penalty = 1.0 / (INVERSE_PENALTY * x_ND.shape[0])
    bound_R1 = (0.5 * (share_N @ z_NR**2) + penalty)[:, None]
    t_NC = one_hot(y_N, class_count=class_count)
    weight_RC = np.zeros((z_NR.shape[1], class_count), np.float32)
    ahead_RC, momentum = weight_RC, 1.0
    for _ in range(_STEP_LIMIT):
        p_NC = softmax(z_NR @ ahead_RC, temperature=1.0)
        gradient_RC = z_NR.T @ (share_N[:, None] * (p_NC - t_NC)) + penalty * ahead_RC
        step_RC = gradient_RC / bound_R1
        after_RC = ahead_RC - step_RC
        if float(np.abs(gradient_RC).max()) < _TOLERANCE:
            weight_RC = after_RC
            break
        if float((gradient_RC * (after_RC - weight_RC)).sum()) > 0:  # overshot: restart the momentum
            momentum = 1.0
        grown = (1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead_RC = after_RC + np.float32((momentum - 1.0) / grown) * (after_RC - weight_RC)
        weight_RC, momentum = after_RC, float(grown)
    return np.asarray(basis_RE.T @ weight_RC, dtype=np.float32)
