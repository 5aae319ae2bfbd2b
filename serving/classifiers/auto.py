"""Chooses a classifier by its held-out log-loss on the support itself.

With one example a class nothing can be held out, so prototypes answer. Otherwise the blend does,
unless one of its members is better by more than the noise of that comparison: choosing the smallest
loss outright follows that noise and lost up to 1.5 points at 2 examples a class.
"""

import functools
from typing import Any

import numpy as np

from serving.fewshot.head import Head, judged, log_losses
from vicinal import plugins
from vicinal.types import F32Array, I64Array

DESCRIPTION = "The default: leave-one-out on the support decides among prototype, knn, ridge and their blend."
CLASS_LIMIT = 1000
"""With more classes only prototypes are fitted."""
_STANDARD_ERRORS = 1.0


def fit(x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
    """Fits the candidates and chooses.

    Args:
        x_ND: support, centred, unit length, float32 (N, D).
        y_N: class numbers, int64 (N,), in [0, class_count).
        class_count: C, at least 1.

    Returns:
        The head that was chosen, under its own name.
    """
    if not 2 <= class_count <= CLASS_LIMIT or np.bincount(y_N).max(initial=0) < 2:
        head: Head = _blend().member("prototype").fit(x_ND, y_N, class_count=class_count)
        return head
    heads = _blend().members(x_ND, y_N, class_count=class_count)
    return choose(_blend().combine(heads, y_N), heads, y_N)


@functools.cache
def _blend() -> Any:
    return plugins.load(__name__.rpartition(".")[0], "blend")


def choose(default: Head, others: list[Head], y_N: I64Array) -> Head:
    """Returns the default, or another head whose held-out log-loss is clearly smaller."""
    rows = judged(default.held_out_NC)
    best, best_gain = default, 0.0
    loss_N = log_losses(default.held_out_NC[rows], y_N[rows], temperature=default.temperature)
    for head in others:
        gain_N = loss_N - log_losses(head.held_out_NC[rows], y_N[rows], temperature=head.temperature)
        error = float(gain_N.std()) / np.sqrt(max(rows.size - 1, 1))
        gain = float(gain_N.mean()) - _STANDARD_ERRORS * error
        if gain > best_gain:
            best, best_gain = head, gain
    return best
