"""A few-shot model: a support set, a fitted head, conformal scores and a detector of the unknown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.fewshot import conformal, unknown
from serving.fewshot.head import Head, judged
from serving.fewshot.space import centered, class_balanced_mean
from serving.fewshot.transductive import refine
from serving.fewshot.unknown import UnknownDetector
from vicinal import plugins
from vicinal.errors import InvalidLabelError, InvalidVectorError
from vicinal.types import BoolArray, F32Array, I64Array

FAMILY = "serving.classifiers"
CLASS_LIMIT = 10_000
"""Classes that a model can tell apart at most."""
MAX_LABEL_BYTES = 256
_WILSON_Z = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a supporting example came from."""

    item_id: str = ""
    """The item; empty for a vector or an image that is no item."""
    place: int = 0
    """Its position in the request; 0 for a stored set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Labelled embeddings of one fingerprint."""

    x_ND: F32Array
    """Embeddings, float32 (N, D), finite."""
    y_N: I64Array
    """Class numbers, int64 (N,), in [0, C)."""
    classes: tuple[str, ...]
    """Labels by class number."""
    negative_MD: F32Array
    """Embeddings of items of none of the classes, float32 (M, D); M may be 0."""
    origins: tuple["Origin", ...]
    """Where each example came from: the N labelled ones, then the M negatives."""
    missing_count: int = 0
    """Labelled items that the snapshot does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of Q queries."""

    p_QC: F32Array
    """Calibrated probabilities, float32 (Q, C)."""
    member_QC: BoolArray
    """Which labels are in the conformal set of each query."""
    unknown_Q: F32Array
    """How unlike the classes each query is, float32 (Q,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FewshotModel:
    """A classifier with honest probabilities, fitted to one support set."""

    support: Support
    """What it was fitted to."""
    head: Head
    """The classifier."""
    center_D: F32Array
    """Subtracted from every embedding before it is scaled to unit length."""
    detector: UnknownDetector
    """Tells queries that are like none of the classes."""
    nonconformity_J: F32Array
    """Held-out 1 - p of the true class, ascending."""
    accuracy: float | None
    """Held-out accuracy on the support, in [0, 1]; None when nothing could be held out."""
    interval: tuple[float, float]
    """95% interval of the accuracy (Wilson)."""
    z_ND: F32Array = field(repr=False)
    """The support as the head sees it."""

    def predict(self, x_QD: F32Array, *, level: float = 0.9, transductive: bool = False) -> Prediction:
        """Classifies queries.

        Args:
            x_QD: embeddings of the same fingerprint, float32 (Q, D).
            level: level of the conformal sets, in (0, 1).
            transductive: refine the answers by what the queries have in common.

        Returns:
            Probabilities, conformal sets and unknown scores.
        """
        q_QD = centered(x_QD, self.center_D)
        p_QC = self.head.predict(q_QD)
        if transductive and q_QD.shape[0] > 1:
            p_QC = refine(p_QC, q_QD, self.z_ND, self.support.y_N)
        limit = conformal.quantile(self.nonconformity_J, level)
        return Prediction(p_QC=p_QC, member_QC=conformal.member_mask(p_QC, limit), unknown_Q=self.detector.scores(q_QD))


def make_support(
    x_ND: F32Array,
    labels: Sequence[str | None],
    *,
    origins: Sequence[Origin] | None = None,
    missing_count: int = 0,
) -> Support:
    """Makes a support set of embeddings and their labels.

    Args:
        x_ND: embeddings, float32 (N, D).
        labels: a label for each, 1 to 256 bytes; None marks a negative ("none of the classes").
        origins: where each came from; default, its position.
        missing_count: labelled items that the snapshot does not hold.

    Raises:
        InvalidLabelError: no labels, too many classes, a bad label, or one vector under two labels.
        InvalidVectorError: a value is not finite.
    """
    names = np.array([label is not None for label in labels], dtype=bool)
    if not names.any():
        raise InvalidLabelError("the support has no labelled example; give at least one", field="support")
    for label in {label for label in labels if label is not None}:
        check_label(label)
    if not np.isfinite(x_ND).all():
        bad = int(np.flatnonzero(~np.isfinite(x_ND).all(axis=1))[0])
        raise InvalidVectorError(f"support example {bad} holds a value that is not finite", field="support")
    classes = tuple(sorted({label for label in labels if label is not None}))
    if len(classes) > CLASS_LIMIT:
        raise InvalidLabelError(
            f"{len(classes):,} classes; a classifier takes {CLASS_LIMIT:,} at most; merge classes", field="support"
        )
    number = {label: i for i, label in enumerate(classes)}
    if origins is None:
        origins = [Origin(place=place) for place in range(len(labels))]
    return Support(
        x_ND=np.ascontiguousarray(x_ND[names], dtype=np.float32),
        y_N=np.array([number[label] for label in labels if label is not None], dtype=np.int64),
        classes=classes,
        negative_MD=np.ascontiguousarray(x_ND[~names], dtype=np.float32),
        origins=tuple(origins[i] for i in (*np.flatnonzero(names), *np.flatnonzero(~names))),
        missing_count=missing_count,
    )


def check_label(label: str) -> str:
    """Returns a label that may be used as a class name.

    Raises:
        InvalidLabelError: it is empty, over 256 bytes, or holds control characters.
    """
    size = len(label.encode("utf-8", errors="surrogatepass"))
    if not 1 <= size <= MAX_LABEL_BYTES:
        raise InvalidLabelError(f"a label has 1 to {MAX_LABEL_BYTES} bytes, got {size:,}: {label[:20]!r}")
    if not label.isprintable() or label.strip() != label:
        raise InvalidLabelError(f"a label may not hold control characters or outer spaces: {label[:40]!r}")
    return label


def fit(support: Support, *, classifier: str = "auto", center_D: F32Array | None = None) -> FewshotModel:
    """Fits a model.

    Args:
        support: what to learn from.
        classifier: a name of ``serving.classifiers``.
        center_D: mean of the corpus; default, the mean of the support's class means.

    Raises:
        InvalidArgumentError: no such classifier; the message suggests one.
    """
    class_count = len(support.classes)
    if center_D is None:
        center_D = default_center(support)
    z_ND = centered(support.x_ND, center_D)
    head: Head = plugins.load(FAMILY, classifier).fit(z_ND, support.y_N, class_count=class_count)
    held_out_NC = head.held_out_probabilities()
    rows = judged(held_out_NC)
    right = int((held_out_NC[rows].argmax(axis=1) == support.y_N[rows]).sum())
    return FewshotModel(
        support=support,
        head=head,
        center_D=center_D,
        detector=unknown.fit(z_ND, support.y_N, negative_MD=centered(support.negative_MD, center_D)),
        nonconformity_J=conformal.nonconformity(held_out_NC, support.y_N),
        accuracy=right / rows.size if rows.size and class_count > 1 else None,
        interval=wilson(right, rows.size) if class_count > 1 else (0.0, 1.0),
        z_ND=z_ND,
    )


def default_center(support: Support) -> F32Array:
    """Returns the mean of the class means, or zero when the support has one place alone."""
    if len(support.classes) < 2:
        return np.zeros(support.x_ND.shape[1], np.float32)
    return class_balanced_mean(support.x_ND, support.y_N, class_count=len(support.classes))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95% interval of a proportion (Wilson, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, _WILSON_Z**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = _WILSON_Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)
