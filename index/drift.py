"""Says how new embeddings differ from those that are served, and how small a difference it could have seen.

No test sees everything: with 500 items, one in ten from new classes is missed by each of them. So
every figure comes with the size of shift that it can detect with that many items.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from index.coarse import Coarse
from index.exact import exact_search
from vicinal.types import F32Array, F64Array, JsonObject, Metric

LEAST_COUNT = 20
"""New items below which nothing is said."""
_MOST_COUNT = 2000
_POOL_FLOATS = 1 << 23
_CENTROID_ROWS = 20_000
_Z_ALPHA, _Z_POWER = 2.326, 0.842
"""One-sided 1% false alarms, 80% power."""
_KS_1_PERCENT = 1.628
_FOLDS = 5
_STALE_ERROR = 1.15
_OTHER_WORLD_AUC = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftTest:
    """One way to look for a shift."""

    name: str
    """What was looked at."""
    value: float
    """What was found."""
    expected: float
    """What is found where nothing shifted."""
    detectable: float
    """Value from which a shift is told from chance with so many items: 1% false alarms, 80% power."""
    shifted: bool
    """Whether the value is beyond chance (1% false alarms)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """How new items differ from old ones."""

    old_count: int
    """Old items in the sample."""
    new_count: int
    """New items in the sample."""
    tests: tuple[ShiftTest, ...] = ()
    """The tests; empty where there are too few new items."""
    sources: dict[str, float] = field(default_factory=dict)
    """For each source of new items, quantisation error as a multiple of that of old items."""
    advice: str = "add"
    """``add``, ``rebuild`` or ``retrain``."""
    reasons: tuple[str, ...] = ()
    """Why."""

    def to_json(self) -> JsonObject:
        """Returns the report as JSON values."""
        return asdict(self)


def measure_drift(
    old_ND: F32Array,
    new_ND: F32Array,
    *,
    metric: Metric,
    sources: Sequence[str] = (),
    coarse: Coarse | None = None,
    seed: int = 0,
) -> DriftReport:
    """Compares new embeddings with old ones; needs no labels.

    Args:
        old_ND: embeddings that are served.
        new_ND: embeddings that came in, of the same encoder.
        metric: how closeness is computed.
        sources: source of each new item, for the figures by source.
        coarse: centroids of the served snapshot, for the quantisation error; trained here where there are none.
        seed: seed of samples and folds.
    """
    rng = np.random.default_rng(seed)
    if len(new_ND) < LEAST_COUNT or len(old_ND) < 2 * LEAST_COUNT:
        few = f"{len(new_ND)} new items are too few to say anything (at least {LEAST_COUNT})"
        return DriftReport(old_count=len(old_ND), new_count=len(new_ND), reasons=(few,))
    new_rows = _some(rng, len(new_ND), _MOST_COUNT)
    order = rng.permutation(len(old_ND))
    held_rows = np.sort(order[: min(_MOST_COUNT, len(old_ND) // 2)])
    pool_rows = np.sort(order[len(held_rows) :][: max(LEAST_COUNT, _POOL_FLOATS // old_ND.shape[1])])
    held_ND, pool_ND, fresh_ND = (
        np.ascontiguousarray(part) for part in (old_ND[held_rows], old_ND[pool_rows], new_ND[new_rows])
    )
    if coarse is None:
        coarse = Coarse.train(pool_ND[:_CENTROID_ROWS], seed=seed)
    old_error_n, new_error_n = (_errors(part, coarse) for part in (held_ND, fresh_ND))
    tests = (
        _neighbor_test(held_ND, fresh_ND, pool_ND, metric),
        _domain_test(held_ND, fresh_ND, rng),
        _error_test(old_error_n, new_error_n),
    )
    by_source = _by_source(sources, new_rows, new_error_n, float(old_error_n.mean()))
    advice, reasons = advise(tests)
    return DriftReport(
        old_count=len(held_ND),
        new_count=len(fresh_ND),
        tests=tests,
        sources=by_source,
        advice=advice,
        reasons=reasons,
    )


def advise(tests: Sequence[ShiftTest]) -> tuple[str, tuple[str, ...]]:
    """Returns what to do about a shift, and why.

    Args:
        tests: what was measured.
    """
    found = {test.name: test for test in tests}
    shifted = [f"{test.name} is {test.value:.3f}, {test.expected:.3f} expected" for test in tests if test.shifted]
    if not shifted:
        seen = ", ".join(f"{test.name} from {test.detectable:.3f}" for test in tests)
        return "add", (f"no shift beyond chance; one would have been seen in {seen}",)
    apart, stale = found["domain AUC"], found["quantisation error new/old"]
    if apart.shifted and apart.value >= _OTHER_WORLD_AUC:
        return "retrain", (*shifted, "the new images look like another domain: the encoder may not know them")
    if stale.shifted and stale.value >= _STALE_ERROR:
        return "rebuild", (*shifted, "the trained part of the index fits the new items worse")
    return "add", (*shifted, "a small shift, which the trained index bears")


def _some(rng: np.random.Generator, total: int, most: int) -> npt.NDArray[np.int64]:
    return np.sort(rng.permutation(total)[:most]).astype(np.int64)


def _neighbor_test(held_ND: F32Array, fresh_ND: F32Array, pool_ND: F32Array, metric: Metric) -> ShiftTest:
    """Compares the scores of the nearest old item, seen from new items and from old ones (Kolmogorov-Smirnov)."""
    old_n, new_n = (
        np.sort(exact_search(part, pool_ND, metric=metric, neighbor_count=1)[1][:, 0]) for part in (held_ND, fresh_ND)
    )
    places = np.concatenate([old_n, new_n])
    below_old = np.searchsorted(old_n, places, side="right") / len(old_n)
    below_new = np.searchsorted(new_n, places, side="right") / len(new_n)
    distance = float(np.abs(below_old - below_new).max())
    spread = math.sqrt((len(old_n) + len(new_n)) / (len(old_n) * len(new_n)))
    limit = _KS_1_PERCENT * spread
    return ShiftTest(
        name="nearest-neighbor distance (KS)",
        value=distance,
        expected=0.87 * spread,
        detectable=limit + _Z_POWER * spread / 2,
        shifted=distance > limit,
    )


def _domain_test(held_ND: F32Array, fresh_ND: F32Array, rng: np.random.Generator) -> ShiftTest:
    """Asks a linear classifier to tell old from new, on items that it was not fitted to."""
    x_ND = np.concatenate([held_ND, fresh_ND]).astype(np.float64)
    y_N = np.concatenate([np.zeros(len(held_ND)), np.ones(len(fresh_ND))])
    folds = rng.permutation(len(x_ND)) % _FOLDS
    scores_N = np.zeros(len(x_ND))
    for fold in range(_FOLDS):
        scores_N[folds == fold] = _ridge(x_ND[folds != fold], y_N[folds != fold], x_ND[folds == fold])
    auc = _auc(scores_N[y_N == 1], scores_N[y_N == 0])
    deviation = math.sqrt((len(x_ND) + 1) / (12 * len(held_ND) * len(fresh_ND)))
    return ShiftTest(
        name="domain AUC",
        value=auc,
        expected=0.5,
        detectable=0.5 + (_Z_ALPHA + _Z_POWER) * deviation,
        shifted=auc > 0.5 + _Z_ALPHA * deviation,
    )


def _ridge(x_ND: F64Array, y_N: F64Array, x_QD: F64Array) -> F64Array:
    mean_D = x_ND.mean(axis=0)
    centred_ND = x_ND - mean_D
    gram_DD = centred_ND.T @ centred_ND
    penalty = 0.1 * np.trace(gram_DD) / len(gram_DD) + 1e-12
    # Both classes weigh alike, however many items each has.
    weights_N = np.where(y_N == 1, 0.5 / max(1, y_N.sum()), -0.5 / max(1, (1 - y_N).sum()))
    w_D = np.linalg.solve(gram_DD + penalty * np.eye(len(gram_DD)), centred_ND.T @ weights_N)
    scores_Q: F64Array = (x_QD - mean_D) @ w_D
    return scores_Q


def _auc(positive_n: F64Array, negative_n: F64Array) -> float:
    ordered = np.sort(negative_n)
    wins = np.searchsorted(ordered, positive_n, side="left") + np.searchsorted(ordered, positive_n, side="right")
    return float(wins.mean() / (2 * len(ordered)))


def _errors(x_ND: F32Array, coarse: Coarse) -> F64Array:
    _, scores_N1 = exact_search(x_ND, coarse.centroids_CD, metric=Metric.L2, neighbor_count=1)
    return -scores_N1[:, 0].astype(np.float64)


def _error_test(old_n: F64Array, new_n: F64Array) -> ShiftTest:
    """Compares how far items lie from the centroids that were trained on old ones."""
    ratio = float(new_n.mean() / max(old_n.mean(), 1e-12))
    relative = [part.std() / max(part.mean(), 1e-12) / math.sqrt(len(part)) for part in (old_n, new_n)]
    deviation = float(np.hypot(*relative))
    return ShiftTest(
        name="quantisation error new/old",
        value=ratio,
        expected=1.0,
        detectable=1 + (_Z_ALPHA + _Z_POWER) * deviation,
        shifted=ratio > 1 + _Z_ALPHA * deviation,
    )


def _by_source(
    sources: Sequence[str], rows: npt.NDArray[np.int64], errors_n: F64Array, old_error: float
) -> dict[str, float]:
    if not sources:
        return {}
    names_n = np.asarray(sources, dtype=object)[rows]
    return {
        str(name): round(float(errors_n[names_n == name].mean() / max(old_error, 1e-12)), 4)
        for name in sorted(set(names_n.tolist()))
    }
