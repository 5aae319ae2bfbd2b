"""Distance thresholds for named targets, as TensorFlow Similarity calibrates them.

Every labelled item is matched to its nearest other labelled item. A match at a score of at least
the threshold counts: true positive when the labels agree, false positive when not; what is below
counts as true negative when the labels disagree, false negative when they agree. A negative agrees
with nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serving.fewshot.evidence import metric_scores
from serving.fewshot.model import Support
from vicinal.errors import InvalidArgumentError, InvalidLabelError, did_you_mean
from vicinal.types import BoolArray, F32Array, I64Array, Metric

METRICS = ("precision", "recall", "f1", "fpr", "npv", "binary_accuracy")
CURVE_POINTS = 200
_CHUNK_VALUES = 1 << 25

_F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a threshold is fitted for."""

    name: str
    """Of the threshold."""
    metric: str
    """One of ``METRICS``."""
    value: float | None
    """Value to reach (of fpr: not to exceed), in [0, 1]; None for the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One fitted threshold."""

    target: str
    """Name of the target."""
    label: str
    """Class it holds for; empty for all together."""
    score: float
    """A match needs at least this score."""
    value: float
    """The target's metric there."""
    reached: bool
    """Whether the value asked for was reached."""
    rejection_rate: float
    """Share of the labelled items below the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Every metric at every threshold worth trying, from the strictest down."""

    score_T: F32Array
    """Thresholds, descending."""
    metrics: dict[str, _F64]
    """Each of ``METRICS``, and ``rejection_rate``, float64 (T,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The nearest other labelled item of each labelled item and each negative."""

    score_J: F32Array
    """Its score, larger is closer."""
    said_J: I64Array
    """Its class."""
    right_J: BoolArray
    """Whether that is the item's own class."""


def nearest_others(support: Support, *, metric: Metric) -> Matches:
    """Matches every labelled item, and every negative, with its nearest labelled item other than itself.

    Raises:
        InvalidLabelError: fewer than two labelled items.
    """
    count = support.x_ND.shape[0]
    if count < 2:
        raise InvalidLabelError("thresholds need at least two labelled items", field="support")
    asked_JD = np.concatenate([support.x_ND, support.negative_MD])
    found = nearest_to(support, asked_JD, metric=metric, own_count=count)
    true_J = np.concatenate([support.y_N, np.full(support.negative_MD.shape[0], -1)])
    return replace(found, right_J=found.said_J == true_J)


def nearest_to(support: Support, x_JD: F32Array, *, metric: Metric, own_count: int = 0) -> Matches:
    """Matches embeddings with their nearest labelled item; ``right_J`` is not known and false.

    Args:
        support: labelled items, at least one.
        x_JD: float32 (J, D).
        metric: of the snapshot.
        own_count: the first so many rows are the support's own and are not matched with themselves.
    """
    scores, said = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    step = max(1, _CHUNK_VALUES // support.x_ND.shape[0])
    for start in range(0, x_JD.shape[0], step):
        scores_JN = metric_scores(x_JD[start : start + step], support.x_ND, metric)
        own = np.arange(start, min(start + step, own_count))
        scores_JN[own - start, own] = -np.inf
        best_J = scores_JN.argmax(axis=1)
        scores.append(scores_JN[np.arange(best_J.size), best_J])
        said.append(support.y_N[best_J])
    score_J = np.concatenate(scores)
    return Matches(score_J=score_J, said_J=np.concatenate(said), right_J=np.zeros(score_J.size, bool))


def curve(score_J: F32Array, right_J: BoolArray) -> Curve:
    """Returns every metric at every score that occurs."""
    order = np.argsort(-score_J, kind="stable")
    score_J, right_J = score_J[order], right_J[order]
    last = np.flatnonzero(np.append(score_J[1:] != score_J[:-1], True))
    tp = np.cumsum(right_J)[last].astype(np.float64)
    fp = (last + 1) - tp
    fn, tn = right_J.sum() - tp, (~right_J).sum() - fp
    total = float(score_J.size)
    return Curve(
        score_T=score_J[last],
        metrics={
            "precision": tp / np.maximum(tp + fp, 1),
            "recall": tp / np.maximum(tp + fn, 1),
            "f1": 2 * tp / np.maximum(2 * tp + fp + fn, 1),
            "fpr": fp / np.maximum(fp + tn, 1),
            "npv": np.where(tn + fn > 0, tn / np.maximum(tn + fn, 1), 1.0),
            "binary_accuracy": (tp + tn) / total,
            "rejection_rate": 1.0 - (last + 1) / total,
        },
    )


def pick(found: Curve, target: Target, *, label: str) -> Threshold:
    """Chooses the threshold for a target: of those that reach it, the one of best F1; else the nearest to it."""
    values_T, f1_T = found.metrics[target.metric], found.metrics["f1"]
    goodness_T = -values_T if target.metric == "fpr" else values_T
    goal = goodness_T.max() if target.value is None else (-target.value if target.metric == "fpr" else target.value)
    reaching = np.flatnonzero(goodness_T >= goal - 1e-12)
    reached = bool(reaching.size)
    if not reached:
        reaching = np.flatnonzero(goodness_T >= goodness_T.max() - 1e-12)
    best = int(reaching[f1_T[reaching].argmax()])
    return Threshold(
        target=target.name,
        label=label,
        score=float(found.score_T[best]),
        value=float(values_T[best]),
        reached=reached,
        rejection_rate=float(found.metrics["rejection_rate"][best]),
    )


def fit(support: Support, targets: Sequence[Target], *, metric: Metric) -> tuple[list[Threshold], Curve]:
    """Fits thresholds over all classes and for each class, and returns the full curve.

    Args:
        support: labelled items, negatives included.
        targets: what for.
        metric: of the snapshot.

    Raises:
        InvalidLabelError: fewer than two labelled items or classes.
        InvalidArgumentError: a target is out of range.
    """
    for target in targets:
        _check(target)
    if len(support.classes) < 2:
        raise InvalidLabelError("thresholds need at least two classes", field="support")
    matches = nearest_others(support, metric=metric)
    whole = curve(matches.score_J, matches.right_J)
    found = [pick(whole, target, label="") for target in targets]
    for number, label in enumerate(support.classes):
        mine = matches.said_J == number
        if mine.any():
            part = curve(matches.score_J[mine], matches.right_J[mine])
            found += [pick(part, target, label=label) for target in targets]
    return found, whole


def thinned(found: Curve) -> I64Array:
    """Returns at most 200 positions of a curve, evenly spread."""
    count = found.score_T.size
    return np.unique(np.linspace(0, count - 1, min(count, CURVE_POINTS)).astype(np.int64))


def _check(target: Target) -> None:
    if target.metric not in METRICS:
        hint = did_you_mean(target.metric, METRICS)
        raise InvalidArgumentError(f"unknown metric {target.metric[:40]!r}{hint}", field="targets.metric")
    if not 1 <= len(target.name) <= 64:
        raise InvalidArgumentError("a target has a name of 1 to 64 characters", field="targets.name")
    if target.value is not None and not 0 <= target.value <= 1:
        raise InvalidArgumentError(f"target {target.name!r} has value {target.value:g}, wanted 0 to 1", field="targets")
