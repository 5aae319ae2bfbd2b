"""A fitted few-shot head: scores of queries, held-out scores of the support, one temperature.

The temperature turns scores into probabilities (temperature scaling, arXiv:1706.04599). It is
fitted on scores that each supporting example got from a fit without it, so it needs no further
labels; a weak prior keeps it sane when there are few.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vicinal.types import F32Array, I64Array

_PRIOR_SIGMA = 0.4
"""Standard deviation of the prior of the logarithm of the temperature."""
_REACH = math.log(40)
_ROOT_STEPS = 40
_ROOT_TOLERANCE = 0.02
"""Of the slope, whose own slope is at least 1 / sigma^2: the logarithm is right to 0.003."""
_FIRST_STEP = 0.5
_NEVER = np.float32(1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A classifier fitted to a support set."""

    name: str
    """The classifier that was fitted; for ``auto``, the one it chose."""
    scores: Callable[[F32Array], F32Array]
    """Maps queries (Q, D), prepared as the support was, to scores (Q, C)."""
    held_out_NC: F32Array
    """Scores of the support by fits without them, float32 (N, C); NaN where a row was not judged."""
    temperature: float
    """Scores are divided by it before the softmax; above 0."""

    def predict(self, x_QD: F32Array) -> F32Array:
        """Returns calibrated probabilities.

        Args:
            x_QD: queries, prepared as the support was, float32 (Q, D).

        Returns:
            float32 (Q, C); each row sums to 1.
        """
        return softmax(self.scores(x_QD), temperature=self.temperature)

    def held_out_probabilities(self) -> F32Array:
        """Returns calibrated held-out probabilities of the support, float32 (N, C), NaN where not judged."""
        return softmax(self.held_out_NC, temperature=self.temperature)


class Classifier(Protocol):
    """What a module of ``serving.classifiers`` offers."""

    DESCRIPTION: str
    """What it does, in a sentence."""

    def fit(self, x_ND: F32Array, y_N: I64Array, *, class_count: int) -> Head:
        """Fits a head."""
        ...


def softmax(z_QC: F32Array, *, temperature: float) -> F32Array:
    """Returns the softmax of rows divided by a temperature, float32 (Q, C)."""
    z_QC = (z_QC - z_QC.max(axis=1, keepdims=True)) / np.float32(temperature)
    e_QC = np.exp(z_QC)
    return np.asarray(e_QC / e_QC.sum(axis=1, keepdims=True), dtype=np.float32)


def judged(held_out_NC: F32Array) -> I64Array:
    """Returns the rows that have held-out scores, int64."""
    return np.flatnonzero(np.isfinite(held_out_NC).all(axis=1))


def log_losses(z_NC: F32Array, y_N: I64Array, *, temperature: float) -> F32Array:
    """Returns -log p of the true class of each row, float32 (N,)."""
    p_NC = softmax(z_NC, temperature=temperature)
    losses_N: F32Array = -np.log(np.maximum(p_NC[np.arange(y_N.shape[0]), y_N], _NEVER))
    return losses_N


def fit_temperature(held_out_NC: F32Array, y_N: I64Array, *, prior: float) -> float:
    """Returns the temperature of highest posterior density.

    Args:
        held_out_NC: held-out scores, float32 (N, C), NaN where a row was not judged.
        y_N: class numbers, int64 (N,).
        prior: the temperature that is usual for such scores, above 0; the answer without any row.

    Returns:
        A temperature within a factor of 40 of the prior.
    """
    rows = judged(held_out_NC)
    if rows.size == 0 or held_out_NC.shape[1] < 2:
        return prior
    # Scores less that of the true class, so that the loss of a row is log sum exp(gap / temperature).
    gap_NC = (held_out_NC[rows] - held_out_NC[rows, y_N[rows]][:, None]).astype(np.float64)
    top_N1 = gap_NC.max(axis=1, keepdims=True)

    def slope(u: float) -> float:
        """Derivative of loss and prior by u, the logarithm of temperature over prior."""
        inverse = math.exp(-u) / prior
        e_NC = np.exp((gap_NC - top_N1) * inverse)
        mean_N = np.einsum("nc,nc->n", e_NC, gap_NC) / e_NC.sum(axis=1)
        return -inverse * float(mean_N.sum()) + u / _PRIOR_SIGMA**2

    return prior * math.exp(_root(slope))


def _root(rising: Callable[[float], float]) -> float:
    """Finds where a function crosses zero upwards, by false position (Illinois rule) from near zero outwards."""
    low = high = middle = 0.0
    at_low = at_high = rising(0.0)
    step = _FIRST_STEP
    while at_low > 0 and low > -_REACH:
        high, at_high, low = low, at_low, max(low - step, -_REACH)
        at_low, step = rising(low), 2 * step
    while at_high < 0 and high < _REACH:
        low, at_low, high = high, at_high, min(high + step, _REACH)
        at_high, step = rising(high), 2 * step
    if at_low >= 0 or at_high <= 0:
        return low if at_low >= 0 else high
    for _ in range(_ROOT_STEPS):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        value = rising(middle)
        if abs(value) < _ROOT_TOLERANCE:
            break
        if value > 0:
            high, at_high, at_low = middle, value, at_low / 2
        else:
            low, at_low, at_high = middle, value, at_high / 2
    return middle


def calibrated(
    name: str, scores: Callable[[F32Array], F32Array], held_out_NC: F32Array, y_N: I64Array, *, prior: float
) -> Head:
    """Makes a head of scores, with the temperature fitted to its held-out scores."""
    held_out_NC = np.asarray(held_out_NC, dtype=np.float32)
    temperature = fit_temperature(held_out_NC, y_N, prior=prior)
    return Head(name=name, scores=scores, held_out_NC=held_out_NC, temperature=temperature)
