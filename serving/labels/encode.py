"""Writes what the label log holds as messages, and reads requests."""

import base64
import binascii
import json
from collections.abc import Iterable

from serving.labels import records
from serving.labels.proposals import Choice, Proposal, Rule
from serving.labels.records import Entry, LabelRow, Source
from vicinal.codec import encode_time
from vicinal.errors import InvalidArgumentError
from vicinal.v1 import label_service_pb2 as pb


def encode_set(found: records.LabelSet, *, missing_count: int = 0) -> pb.LabelSet:
    """Encodes a label set."""
    return pb.LabelSet(
        name=found.name,
        multi_label=found.multi_label,
        version=found.version,
        classes=found.classes,
        negative_count=found.negative_count,
        create_time=encode_time(found.created_at),
        missing_count=missing_count,
    )


def encode_batch(batch: records.Batch) -> pb.Batch:
    """Encodes a batch."""
    return pb.Batch(
        number=batch.number,
        verb=batch.verb,
        author=batch.author,
        create_time=encode_time(batch.created_at),
        change_count=batch.change_count,
        target=batch.target,
        undone=batch.undone,
    )


def encode_label(row: LabelRow) -> pb.Label:
    """Encodes a label that holds."""
    return pb.Label(
        item_id=row.item_id,
        label=row.label or "",
        negative=row.label is None,
        source=pb.LabelSource.ValueType(int(row.source)),
        author=row.author,
        confidence=row.confidence,
        create_time=encode_time(row.created_at),
        batch=row.batch,
        snapshot=row.snapshot,
    )


def encode_proposal(one: Proposal) -> pb.Proposal:
    """Encodes a proposal."""
    return pb.Proposal(
        item_id=one.item_id,
        label=one.label,
        probability=one.probability,
        evidence_item_ids=one.evidence,
        score=one.score,
    )


def decode_entries(labels: Iterable[pb.Label], *, caller: str) -> list[Entry]:
    """Decodes labels to be put.

    Args:
        labels: the messages.
        caller: the author where a label names none.

    Raises:
        InvalidArgumentError: a label that is negative too, or an unknown source.
    """
    return [_entry(label, place, caller) for place, label in enumerate(labels)]


def decode_choice(item_ids: Iterable[str], rule: pb.ProposalRule | None) -> Choice:
    """Decodes which proposals are meant."""
    if rule is None:
        return Choice(item_ids=tuple(item_ids))
    return Choice(
        item_ids=tuple(item_ids),
        rule=Rule(
            label=rule.label,
            min_probability=rule.min_probability if rule.HasField("min_probability") else None,
            min_score=rule.min_score if rule.HasField("min_score") else None,
        ),
    )


def page_size(wanted: int, *, default: int, limit: int) -> int:
    """Returns the entries of a page.

    Raises:
        InvalidArgumentError: negative.
    """
    if wanted < 0:
        raise InvalidArgumentError(f"page_size is {wanted}, wanted 1 to {limit:,}", field="page_size")
    return min(wanted or default, limit)


def make_token(*place: str | float) -> str:
    """Returns a page token that stands for a place in a list."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_token(token: str, *kinds: type) -> list[str | float] | None:
    """Returns the place that a page token stands for, None for an empty one.

    Raises:
        InvalidArgumentError: this server did not give it.
    """
    if not token:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, binascii.Error) as error:
        raise InvalidArgumentError("page_token is not from this server; start again without it") from error
    if not isinstance(place, list) or [type(part) for part in place] != list(kinds):
        raise InvalidArgumentError("page_token is of another list; start again without it", field="page_token")
    return place


def _entry(label: pb.Label, place: int, caller: str) -> Entry:
    if label.negative and label.label:
        raise InvalidArgumentError(
            f"label {place} is negative and has the label {label.label[:40]!r}; give one of the two",
            field=f"labels[{place}]",
        )
    try:
        source = Source(label.source or Source.HUMAN)
    except ValueError as error:
        raise InvalidArgumentError(f"label {place} has the unknown source {label.source}") from error
    return Entry(
        item_id=label.item_id,
        label=None if label.negative else label.label,
        source=source,
        author=label.author or caller,
        confidence=label.confidence if label.HasField("confidence") else 1.0,
    )
