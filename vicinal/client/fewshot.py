"""The calls of FewshotService."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
from typing_extensions import Unpack

from vicinal.client.call import Call
from vicinal.client.query import QueryLike, encode_query
from vicinal.codec import decode_error, decode_ref
from vicinal.errors import InvalidArgumentError, VicinalError
from vicinal.types import SnapshotRef
from vicinal.v1 import fewshot_service_pb2 as pb

_SERVICE = "/vicinal.v1.FewshotService"


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportExample:
    """One labelled example."""

    query: QueryLike
    """The example: an item id, the bytes of an image, or a vector, shape (D,)."""
    label: str = ""
    """Its label, 1 to 256 bytes; empty when ``negative``."""
    negative: bool = False
    """It is of none of the classes; such examples sharpen ``unknown``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A supporting example that is near a query."""

    item_id: str
    """Its id; empty when it was given as a vector or an image."""
    example: int
    """Its position in the inline support; 0 for a stored set."""
    label: str
    """Its label; empty for a negative."""
    score: float
    """Larger is closer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The answer to one query."""

    label: str
    """The most probable label, also where ``unknown``."""
    probability: float
    """Its calibrated probability, in [0, 1]."""
    probabilities: Mapping[str, float]
    """The most probable labels, best first."""
    conformal_set: list[str]
    """Labels that together hold the truth with the level asked for, best first."""
    unknown: bool
    """Whether the query looks like none of the classes."""
    unknown_score: float
    """How unlike the classes it is; larger is less like them."""
    unknown_threshold: float
    """``unknown`` is true above it."""
    evidence: list[Evidence]
    """The nearest supporting examples, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedClassifier:
    """The classifier that answered."""

    name: str
    """Its name, also where ``auto`` chose it."""
    accuracy: float | None
    """Leave-one-out accuracy on the support; None with one example a class."""
    accuracy_interval: tuple[float, float]
    """95% interval of it (Wilson)."""
    temperature: float
    """Temperature of the probabilities."""
    example_count: int
    """Examples used, negatives not counted."""
    class_count: int
    """Classes."""
    missing_count: int
    """Labelled items that the snapshot does not hold: kept in the set, not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyResult:
    """The answers to several queries."""

    results: list[Classification | VicinalError]
    """One answer or error a query, in their order."""
    classifier: FittedClassifier
    """The classifier that answered."""
    snapshot: SnapshotRef
    """The snapshot that answered."""
    label_set_version: int
    """Version of the stored label set that was used; 0 for inline support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierInfo:
    """A kind of classifier."""

    name: str
    """What to ask for."""
    description: str
    """What it does, in a sentence."""


SupportLike: TypeAlias = str | Sequence[SupportExample] | tuple[str, int]
"""The name of a stored label set, that name with a version, or labelled examples."""


class ClassifyOptions(TypedDict, total=False):
    """How to classify; what is left out has the server's default."""

    classifier: str
    """A name from ``list_classifiers``. Default ``auto``."""
    conformal_level: float
    """Level of the conformal sets, in (0, 1). Default 0.9."""
    evidence_count: int
    """Supporting examples to return for each query, 0 to 100. Default 3."""
    class_count: int
    """Probabilities to return for each query; 0 means all. Default 10."""
    transductive: bool
    """Refine the answers by what the queries have in common."""
    calibration: str
    """Take the threshold of ``unknown`` from this calibration."""


def classify(
    queries: Sequence[QueryLike] | npt.NDArray[np.floating],
    *,
    support: SupportLike,
    snapshot: str = "",
    timeout_s: float | None = None,
    **options: Unpack[ClassifyOptions],
) -> Call[ClassifyResult]:
    """Classifies queries by a handful of labelled items.

    Args:
        queries: item ids, images or vectors, 1 to 1,000.
        support: labelled examples, or the name of a stored label set.
        snapshot: answer from this snapshot; empty for the active one.
        timeout_s: seconds to wait for the answer; None takes the client's.
        options: ``classifier`` and the others of ``ClassifyOptions``.

    Returns:
        An answer or an error for each query, in their order.

    Raises:
        VicinalError: of the class that the server raised; see docs/api.md.
    """
    return Call(
        method=f"{_SERVICE}/Classify",
        request=pb.ClassifyRequest(
            queries=[encode_query(query) for query in queries],
            support=encode_support(support),
            snapshot=snapshot,
            **options,
        ),
        response=pb.ClassifyResponse,
        decode=_decode_classify,
        timeout_s=timeout_s,
    )


def list_classifiers(*, timeout_s: float | None = None) -> Call[list[ClassifierInfo]]:
    """Lists the classifiers that the server has.

    Args:
        timeout_s: seconds to wait for the answer; None takes the client's.
    """

    def decode(reply: pb.ListClassifiersResponse) -> list[ClassifierInfo]:
        return [ClassifierInfo(name=one.name, description=one.description) for one in reply.classifiers]

    return Call(
        method=f"{_SERVICE}/ListClassifiers",
        request=pb.ListClassifiersRequest(),
        response=pb.ListClassifiersResponse,
        decode=decode,
        timeout_s=timeout_s,
    )


def label_set_name(name: str) -> str:
    """Returns the resource name of a label set, such as ``labelSets/clothes`` for ``clothes``."""
    return name if name.startswith("labelSets/") else f"labelSets/{name}"


def encode_support(support: SupportLike) -> pb.Support:
    """Returns the message of a support set.

    Raises:
        InvalidArgumentError: not a name, a name and a version, or examples.
    """
    if isinstance(support, str):
        return pb.Support(label_set=pb.LabelSetRef(name=label_set_name(support)))
    if isinstance(support, tuple) and len(support) == 2 and isinstance(support[0], str):
        return pb.Support(label_set=pb.LabelSetRef(name=label_set_name(support[0]), version=int(str(support[1]))))
    examples = []
    for example in support:
        if not isinstance(example, SupportExample):
            raise InvalidArgumentError(
                f"support is the name of a label set or SupportExample objects, got {type(example).__name__}",
                field="support",
            )
        examples.append(
            pb.SupportExample(query=encode_query(example.query), label=example.label, negative=example.negative)
        )
    return pb.Support(inline=pb.InlineSupport(examples=examples))


def decode_classifier(message: pb.FittedClassifier) -> FittedClassifier:
    """Decodes the classifier that answered."""
    return FittedClassifier(
        name=message.name,
        accuracy=message.accuracy if message.HasField("accuracy") else None,
        accuracy_interval=(message.accuracy_lower, message.accuracy_upper),
        temperature=message.temperature,
        example_count=message.example_count,
        class_count=message.class_count,
        missing_count=message.missing_count,
    )


def _decode_classify(reply: pb.ClassifyResponse) -> ClassifyResult:
    return ClassifyResult(
        results=[decode_error(one.error) if one.HasField("error") else _classification(one) for one in reply.results],
        classifier=decode_classifier(reply.classifier),
        snapshot=decode_ref(reply.snapshot),
        label_set_version=reply.label_set_version,
    )


def _classification(message: pb.Classification) -> Classification:
    return Classification(
        label=message.label,
        probability=message.probability,
        probabilities={one.label: one.probability for one in message.probabilities},
        conformal_set=list(message.conformal_set),
        unknown=message.unknown,
        unknown_score=message.unknown_score,
        unknown_threshold=message.unknown_threshold,
        evidence=[
            Evidence(item_id=one.item_id, example=one.example, label=one.label, score=one.score)
            for one in message.evidence
        ],
    )
