"""The calls of FewshotService that measure: calibrate and evaluate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from vicinal.client.call import Call
from vicinal.client.fewshot import FittedClassifier, SupportLike, decode_classifier, encode_support
from vicinal.codec import decode_ref
from vicinal.types import I64Array, SnapshotRef
from vicinal.v1 import fewshot_service_pb2 as pb

_SERVICE = "/vicinal.v1.FewshotService"
_PREFIX = "calibrations/"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTarget:
    """What thresholds are fitted for."""

    name: str
    """Of the thresholds, such as ``precise``."""
    metric: str
    """``precision``, ``recall``, ``f1``, ``fpr``, ``npv`` or ``binary_accuracy``."""
    value: float | None = None
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
    """Share of the labelled items that it would call unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Thresholds fitted to a label set; belongs to one fingerprint."""

    name: str
    """Resource name, such as ``calibrations/clothes``."""
    fingerprint: str
    """Of the embeddings that it was fitted on."""
    thresholds: list[Threshold]
    """All of them."""
    default_target: str
    """The target whose thresholds are used."""
    created_at: datetime
    """When it was fitted, UTC."""
    curve: Mapping[str, list[float]]
    """``score``, ``precision``, ``recall``, ``f1`` and ``fpr`` along the thresholds, the strictest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """One bin of a reliability diagram."""

    lower: float
    """Lower end of confidence."""
    upper: float
    """Upper end of confidence."""
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share that was right."""
    count: int
    """Predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """What was measured of a label set."""

    metrics: Mapping[str, float]
    """By name, each in [0, 1]."""
    labels: list[str]
    """In the order of the confusion matrix."""
    confusion: I64Array
    """Counts by true and said class, shape (C, C)."""
    classifier: FittedClassifier
    """The classifier."""
    reliability: list[ReliabilityBin]
    """Bins of confidence."""
    snapshot: SnapshotRef
    """The snapshot whose embeddings were used."""


def calibrate(
    name: str,
    support: SupportLike,
    *,
    targets: Sequence[CalibrationTarget] = (),
    default_target: str = "",
    timeout_s: float | None = None,
) -> Call[Calibration]:
    """Fits distance thresholds for named targets and keeps them under a name.

    Args:
        name: to keep them under, 1 to 63 of a-z, 0-9 and -.
        support: labelled examples, or the name of a stored label set; negatives included.
        targets: what for; default best F1 and precision 0.99.
        default_target: whose thresholds ``unknown`` uses; default the first.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.CalibrateRequest(
        name=_PREFIX + name.removeprefix(_PREFIX),
        support=encode_support(support),
        targets=[pb.CalibrationTarget(name=one.name, metric=one.metric, value=one.value) for one in targets],
        default_target=default_target,
    )
    return Call(
        method=f"{_SERVICE}/Calibrate",
        request=request,
        response=pb.CalibrateResponse,
        decode=_calibration,
        timeout_s=timeout_s,
    )


def evaluate(
    support: SupportLike,
    *,
    held_out: SupportLike | None = None,
    classifier: str = "auto",
    depth: int = 10,
    calibration: str = "",
    timeout_s: float | None = None,
) -> Call[EvaluateResult]:
    """Measures classification and retrieval by a label set.

    Args:
        support: labelled examples, or the name of a stored label set.
        held_out: evaluate on these; None for leave-one-out on the support.
        classifier: a name from ``list_classifiers``.
        depth: k of recall@k, precision@k, MAP@k and NDCG@k, 1 to 1,000.
        calibration: take the thresholds of ``unknown`` from it.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.EvaluateRequest(
        support=encode_support(support),
        held_out=None if not held_out else encode_support(held_out),
        classifier=classifier,
        depth=depth,
        calibration=calibration,
    )
    return Call(
        method=f"{_SERVICE}/Evaluate",
        request=request,
        response=pb.EvaluateResponse,
        decode=_evaluation,
        timeout_s=timeout_s,
    )


def _calibration(reply: pb.CalibrateResponse) -> Calibration:
    found = reply.calibration
    return Calibration(
        name=found.name,
        fingerprint=found.fingerprint,
        thresholds=[
            Threshold(
                target=one.target,
                label=one.label,
                score=one.score,
                value=one.value,
                reached=one.reached,
                rejection_rate=one.rejection_rate,
            )
            for one in found.thresholds
        ],
        default_target=found.default_target,
        created_at=found.create_time.ToDatetime(tzinfo=UTC),
        curve={
            name: [getattr(point, name) for point in found.curve]
            for name in ("score", "precision", "recall", "f1", "fpr")
        },
    )


def _evaluation(reply: pb.EvaluateResponse) -> EvaluateResult:
    labels = list(reply.labels)
    return EvaluateResult(
        metrics=dict(sorted(reply.metrics.items())),
        labels=labels,
        confusion=np.array(reply.confusion, dtype=np.int64).reshape(len(labels), len(labels)),
        classifier=decode_classifier(reply.classifier),
        reliability=[
            ReliabilityBin(
                lower=one.lower, upper=one.upper, confidence=one.confidence, accuracy=one.accuracy, count=one.count
            )
            for one in reply.reliability
        ],
        snapshot=decode_ref(reply.snapshot),
    )
