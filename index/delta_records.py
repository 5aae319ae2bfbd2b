"""The records of a delta: what each says of items, as bytes; and what is left of those that were dropped."""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.artifact import storage_guard, sync_path
from vicinal.corpus import MetadataValue
from vicinal.errors import CorruptArtifactError, FailedPreconditionError
from vicinal.items import Item
from vicinal.types import F32Array, JsonObject

_LENGTH = struct.Struct("<I")
_DROPPED = "dropped.json"
_CORE = ("item_id", "digest", "source", "path", "label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One change of some items."""

    number: int
    """Number of the record; each has one more than the one before."""
    ordinal: int
    """Items upserted by all records before it."""
    request_id: str
    """Chosen by the caller; may be empty."""
    item_ids: tuple[str, ...]
    """The items that were upserted or deleted."""
    count: int
    """Items that were upserted, or that were there to be deleted."""
    is_delete: bool
    """Whether the items were deleted."""
    described: tuple[JsonObject, ...] = ()
    """The items, none of a deletion."""
    packed: memoryview = memoryview(b"")  # noqa: RUF009 - as immutable as the bytes under it
    """Their embeddings, float32, row after row."""

    def items(self) -> list[Item]:
        """Returns the items."""
        return [_restore(one) for one in self.described]

    def vectors(self, dimension: int) -> F32Array:
        """Returns their embeddings, float32 (M, D)."""
        return np.frombuffer(self.packed, "<f4").reshape(-1, dimension)


def encode(head: JsonObject, x_MD: F32Array | None) -> bytes:
    """Returns the bytes of a record.

    Args:
        head: the fields of ``Record`` but the embeddings.
        x_MD: the embeddings, float32.
    """
    text = json.dumps(head).encode()
    tail = b"" if x_MD is None else x_MD.astype("<f4").tobytes()
    return _LENGTH.pack(len(text)) + text + tail


def decode(body: bytes) -> Record:
    """Returns the record that some bytes hold.

    Raises:
        CorruptArtifactError: they hold none.
    """
    try:
        (length,) = _LENGTH.unpack_from(body)
        head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        described = tuple(head["items"])
        return Record(
            number=int(head["number"]),
            ordinal=int(head["ordinal"]),
            request_id=str(head["request_id"]),
            item_ids=tuple(one["item_id"] for one in described) or tuple(head["item_ids"]),
            count=int(head["count"]),
            is_delete=not described,
            described=described,
            packed=memoryview(body)[_LENGTH.size + length :],
        )
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise CorruptArtifactError(f"a record of the delta is not of this format: {error}") from error


def without_content(record: Record) -> Record:
    """Returns a record without its items and embeddings, once these are kept elsewhere."""
    return replace(record, described=(), packed=memoryview(b""))


def describe(item: Item, added_at: str) -> JsonObject:
    """Returns an item as JSON values."""
    metadata = {
        name: {"time": value.isoformat()} if isinstance(value, datetime) else value
        for name, value in item.metadata.items()
    }
    return {**{name: getattr(item, name) for name in _CORE}, "added_at": added_at, "metadata": metadata}


def _restore(described: JsonObject) -> Item:
    metadata: dict[str, MetadataValue] = {
        name: datetime.fromisoformat(value["time"]) if isinstance(value, dict) else value
        for name, value in described["metadata"].items()
    }
    core: dict[str, Any] = {name: described[name] for name in _CORE}
    return Item(**core, added_at=datetime.fromisoformat(described["added_at"]), metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What is kept of records that were dropped."""

    number: int = 0
    """Number of the last of them."""
    ordinal: int = 0
    """Items that they upserted."""
    item_ids: tuple[str, ...] = ()
    """Every item that they changed: there the corpora have no say."""
    deleted_ids: tuple[str, ...] = ()
    """Those of them that their last change deleted."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Count of each of the last requests."""


def read_dropped(directory: Path) -> Dropped:
    """Returns what is kept of the records that a log no longer holds.

    Raises:
        CorruptArtifactError: the file is damaged.
    """
    path = directory / _DROPPED
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Dropped(
            number=int(raw["number"]),
            ordinal=int(raw["ordinal"]),
            item_ids=tuple(raw["item_ids"]),
            deleted_ids=tuple(raw["deleted_ids"]),
            requests=dict(raw["requests"]),
        )
    except FileNotFoundError:
        return Dropped()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"{path} is damaged: {error}", metadata={"file": path.name}) from error


def check_held(dropped: Dropped, number: int) -> None:
    """Refuses a snapshot that lacks changes which are in no log any more.

    Args:
        dropped: what is kept of the changes that were dropped.
        number: number of the last change that the snapshot holds.

    Raises:
        FailedPreconditionError: it lacks some.
    """
    if number < dropped.number:
        raise FailedPreconditionError(
            f"changes {number + 1} to {dropped.number} of items were dropped by vicinal gc, when no snapshot lacked "
            "them; this snapshot does and cannot be served: refresh, or publish a later one"
        )


def write_dropped(directory: Path, dropped: Dropped) -> None:
    """Replaces what is kept, by one rename; when this returns, it is on disk.

    Raises:
        StorageError: the disk is full or failed; nothing has changed.
    """
    path = directory / _DROPPED
    temporary = path.with_name(f".{_DROPPED}.{os.getpid()}")
    value = {
        "format_version": 1,
        "number": dropped.number,
        "ordinal": dropped.ordinal,
        "item_ids": list(dropped.item_ids),
        "deleted_ids": list(dropped.deleted_ids),
        "requests": dict(dropped.requests),
    }
    with storage_guard(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump(value, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_path(directory)
        finally:
            temporary.unlink(missing_ok=True)
