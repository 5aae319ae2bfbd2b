"""Measures a label set: classification by leave-one-out or on held-out items, and retrieval."""

from dataclasses import dataclass

import numpy as np

from serving.fewshot import conformal, metrics
from serving.fewshot.calibrations import Calibration
from serving.fewshot.evidence import metric_scores
from serving.fewshot.head import judged
from serving.fewshot.metrics import Bin
from serving.fewshot.model import FewshotModel, Support
from serving.fewshot.space import centered
from serving.fewshot.thresholds import Matches, nearest_others, nearest_to
from serving.fewshot.unknown import leave_one_out
from vicinal.errors import InvalidArgumentError, InvalidLabelError
from vicinal.types import F32Array, I64Array, Metric

DEPTH_LIMIT = 1000
_LEVEL = 0.9
_CHUNK_VALUES = 1 << 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured."""

    metrics: dict[str, float]
    """By name, each in [0, 1]."""
    labels: tuple[str, ...]
    """In the order of the confusion matrix."""
    confusion_CC: I64Array
    """Counts by true and said class."""
    reliability: list[Bin]
    """Bins of confidence."""


def evaluate(
    model: FewshotModel, held_out: Support | None, *, depth: int, metric: Metric, calibration: Calibration | None = None
) -> Evaluation:
    """Measures a fitted model.

    Args:
        model: fitted to the label set.
        held_out: items to judge it by; None judges each supporting item by a fit without it.
        depth: k of recall@k and the others, 1 to 1,000.
        metric: of the snapshot.
        calibration: says from where on an item is unknown; default, the model's own threshold.

    Raises:
        InvalidArgumentError: depth is out of range.
        InvalidLabelError: nothing can be judged, or a held-out label is not in the support.
    """
    if not 1 <= depth <= DEPTH_LIMIT:
        raise InvalidArgumentError(f"depth is {depth}, wanted 1 to {DEPTH_LIMIT:,}", field="depth")
    p_QC, true_Q = _held_out_answers(model) if held_out is None else _answers(model, held_out)
    counts_CC = metrics.confusion(p_QC.argmax(axis=1), true_Q, class_count=len(model.support.classes))
    bins = metrics.reliability(p_QC, true_Q)
    found = {
        **metrics.accuracies(counts_CC),
        "ece": metrics.expected_calibration_error(bins),
        "mean_confidence": float(p_QC.max(axis=1).mean()),
        **_conformal(model, p_QC, true_Q),
        **_retrieval(model.support, held_out, depth=depth, metric=metric),
        **_unknown(model, held_out, calibration, metric),
    }
    return Evaluation(metrics=found, labels=model.support.classes, confusion_CC=counts_CC, reliability=bins)


def _held_out_answers(model: FewshotModel) -> tuple[F32Array, I64Array]:
    p_NC = model.head.held_out_probabilities()
    rows = judged(p_NC)
    if rows.size == 0:
        raise InvalidLabelError("leave-one-out needs two examples of a class; label more, or give a held-out set")
    return p_NC[rows], model.support.y_N[rows]


def _answers(model: FewshotModel, held_out: Support) -> tuple[F32Array, I64Array]:
    number = {label: place for place, label in enumerate(model.support.classes)}
    strange = sorted(set(held_out.classes) - number.keys())
    if strange:
        raise InvalidLabelError(
            f"the held-out set has classes that the support does not have: {', '.join(strange[:5])}", field="held_out"
        )
    renumbered = np.array([number[label] for label in held_out.classes], dtype=np.int64)
    return model.predict(held_out.x_ND).p_QC, renumbered[held_out.y_N]


def _conformal(model: FewshotModel, p_QC: F32Array, true_Q: I64Array) -> dict[str, float]:
    limit = conformal.quantile(model.nonconformity_J, _LEVEL)
    member_QC = conformal.member_mask(p_QC, limit)
    return {
        "conformal_coverage@90": float(member_QC[np.arange(true_Q.size), true_Q].mean()),
        "conformal_set_share@90": float(member_QC.mean()),
    }


def _retrieval(support: Support, held_out: Support | None, *, depth: int, metric: Metric) -> dict[str, float]:
    asked = support if held_out is None else held_out
    labels_N = np.array(support.classes)[support.y_N]
    true_Q = np.array(asked.classes)[asked.y_N]
    sizes = dict(zip(support.classes, np.bincount(support.y_N).tolist(), strict=True))
    relevant_Q = np.array([sizes.get(label, 0) - (held_out is None) for label in true_Q], dtype=np.int64)
    parts = []
    step = max(1, _CHUNK_VALUES // max(labels_N.size, 1))
    for start in range(0, true_Q.size, step):
        scores_QN = metric_scores(asked.x_ND[start : start + step], support.x_ND, metric)
        if held_out is None:
            own = np.arange(start, start + scores_QN.shape[0])
            scores_QN[own - start, own] = -np.inf
        order_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, : min(depth, labels_N.size - (held_out is None))]
        parts.append(labels_N[order_QK] == true_Q[start : start + step, None])
    return metrics.retrieval(np.concatenate(parts), relevant_Q, depth=depth)


def _unknown(
    model: FewshotModel, held_out: Support | None, calibration: Calibration | None, metric: Metric
) -> dict[str, float]:
    detector = model.detector
    if held_out is None:
        known_J, unknown_M = leave_one_out(detector)
    else:
        known_J = detector.scores(centered(held_out.x_ND, model.center_D))
        unknown_M = detector.scores(centered(held_out.negative_MD, model.center_D))
    refused_J, refused_M = known_J > detector.threshold, unknown_M > detector.threshold
    if calibration is not None:
        matches = _matches(model.support, held_out, metric)
        refused = matches.score_J < calibration.limits(model.support.classes, matches.said_J)
        refused_J, refused_M = np.split(refused, [refused.size - unknown_M.size])
    found = {"expected_rejection_rate": float(refused_J.mean())}
    if unknown_M.size:
        found["unknown_auroc"] = metrics.auroc(known_J, unknown_M)
        found["unknown_recall"] = float(refused_M.mean())
    return found


def _matches(support: Support, held_out: Support | None, metric: Metric) -> Matches:
    if held_out is None:
        return nearest_others(support, metric=metric)
    return nearest_to(support, np.concatenate([held_out.x_ND, held_out.negative_MD]), metric=metric)
