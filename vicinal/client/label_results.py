"""What the calls of LabelService take and return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from vicinal.client.call import Call
from vicinal.errors import InvalidArgumentError
from vicinal.types import SnapshotRef
from vicinal.v1 import label_service_pb2 as pb

T = TypeVar("T")
SERVICE = "/vicinal.v1.LabelService"
_SOURCES = {"human": 1, "propagated": 2, "imported": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label on one item."""

    item_id: str
    """The item."""
    label: str = ""
    """The class; empty when ``negative``."""
    negative: bool = False
    """None of the classes."""
    source: str = "human"
    """``human``, ``propagated`` or ``imported``."""
    author: str = ""
    """Who says so; empty for the caller's name."""
    confidence: float = 1.0
    """In [0, 1]."""
    created_at: datetime | None = None
    """When it was put, UTC; set by the server."""
    batch: int = 0
    """The batch that put it; set by the server."""
    snapshot: str = ""
    """The snapshot that was active then; set by the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """A label set and what is in it."""

    name: str
    """Resource name, such as ``labelSets/clothes``."""
    multi_label: bool
    """Whether an item may have several labels."""
    version: int
    """Number of its newest batch."""
    classes: Mapping[str, int]
    """Items with each class, by class."""
    negative_count: int
    """Items marked as none of the classes."""
    missing_count: int
    """Labelled items that the active snapshot does not hold: kept, not used."""
    created_at: datetime
    """When it was made, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBatch:
    """One acknowledged change of a label set."""

    number: int
    """From 1; also the version that it made."""
    verb: str
    """What it did, such as ``put`` or ``undo``."""
    author: str
    """Who did it."""
    created_at: datetime
    """When, UTC."""
    change_count: int
    """Labels changed."""
    target: int = 0
    """The batch that it undoes or redoes; 0 otherwise."""
    undone: bool = False
    """Whether it is undone."""
    missing_count: int = 0
    """Of a put or import: items that the active snapshot does not hold."""
    skipped_count: int = 0
    """Of an undo or redo: labels left alone because they were changed since."""
    merged: bool = False
    """Of a rename: two classes became one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPage:
    """A page of labels."""

    labels: list[Label]
    """By item id."""
    next_page_token: str
    """Gives the next page; empty on the last."""
    version: int
    """The version they are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConflict:
    """An item on which people disagree."""

    item_id: str
    """The item."""
    labels: list[Label]
    """What they said, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A label proposed for an item."""

    item_id: str
    """The item."""
    label: str
    """The class."""
    probability: float
    """Calibrated, in [0, 1]."""
    score: float
    """Against the prototype of the class, larger is closer."""
    evidence_item_ids: list[str] = field(default_factory=list)
    """Labelled items that speak for it, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalRule:
    """Chooses proposals; every condition that is set must hold."""

    label: str = ""
    """Of this class."""
    min_probability: float | None = None
    """With at least this probability."""
    min_score: float | None = None
    """With at least this score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalPage:
    """A page of proposals."""

    proposals: list[Proposal]
    """Most certain first."""
    next_page_token: str
    """Gives the next page; empty on the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeResult:
    """What a run of proposals found."""

    proposal_count: int
    """Proposals now open."""
    candidate_count: int
    """Items that were looked at."""
    classifier: str
    """The classifier used."""
    snapshot: SnapshotRef
    """The snapshot whose items were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestResult:
    """Items worth labelling next."""

    item_ids: list[str]
    """Most useful first."""
    strategy: str
    """The strategy used."""
    explanation: str
    """Why, for people."""
    snapshot: SnapshotRef
    """The snapshot they are in."""


def label_call(
    method: str, request: Message, response: type[Message], decode: Callable[..., T], **options: Any
) -> Call[T]:
    """Makes a call of LabelService."""
    return Call(method=f"{SERVICE}/{method}", request=request, response=response, decode=decode, **options)


def encode_label(label: Label) -> pb.Label:
    """Encodes a label.

    Raises:
        InvalidArgumentError: an unknown source.
    """
    if label.source not in _SOURCES:
        raise InvalidArgumentError(f"source is {label.source!r}, wanted one of {', '.join(_SOURCES)}", field="source")
    return pb.Label(
        item_id=label.item_id,
        label=label.label,
        negative=label.negative,
        source=pb.LabelSource.ValueType(_SOURCES[label.source]),
        author=label.author,
        confidence=label.confidence,
    )


def encode_rule(rule: ProposalRule | None) -> pb.ProposalRule | None:
    """Encodes a rule."""
    if rule is None:
        return None
    return pb.ProposalRule(label=rule.label, min_probability=rule.min_probability, min_score=rule.min_score)


def decode_label(message: pb.Label) -> Label:
    """Decodes a label."""
    names = {number: name for name, number in _SOURCES.items()}
    return Label(
        item_id=message.item_id,
        label=message.label,
        negative=message.negative,
        source=names.get(message.source, "human"),
        author=message.author,
        confidence=message.confidence,
        created_at=_time(message.create_time),
        batch=message.batch,
        snapshot=message.snapshot,
    )


def decode_set(message: pb.LabelSet) -> LabelSet:
    """Decodes a label set."""
    return LabelSet(
        name=message.name,
        multi_label=message.multi_label,
        version=message.version,
        classes=dict(sorted(message.classes.items())),
        negative_count=message.negative_count,
        missing_count=message.missing_count,
        created_at=_time(message.create_time),
    )


def decode_batch(message: pb.Batch) -> LabelBatch:
    """Decodes a batch."""
    return LabelBatch(
        number=message.number,
        verb=message.verb,
        author=message.author,
        created_at=_time(message.create_time),
        change_count=message.change_count,
        target=message.target,
        undone=message.undone,
    )


def decode_changed(reply: Any) -> LabelBatch:
    """Decodes a reply that holds one batch, with what else it says of it."""
    known = {"missing_count", "skipped_count", "merged"} & set(reply.DESCRIPTOR.fields_by_name)
    return replace(decode_batch(reply.batch), **{name: getattr(reply, name) for name in known})


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
