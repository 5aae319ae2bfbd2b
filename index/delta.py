"""Items added and deleted since the snapshot was built: on disk before they are acknowledged, searchable at once.

    WORKSPACE/delta/FINGERPRINT/log.wal

Each record has a number that only grows. A snapshot says up to which number it holds the changes;
later ones lie over it, so a rollback and a refresh that runs meanwhile lose none.
"""

import json
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from index.wal import WriteAheadLog
from vicinal.artifact import storage_guard
from vicinal.corpus import MAX_ID_BYTES, MetadataValue
from vicinal.errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from vicinal.items import Item, kind_of
from vicinal.locks import locked
from vicinal.store import Store
from vicinal.types import F32Array, JsonObject, Metric

_LENGTH = struct.Struct("<I")
_REMEMBERED_REQUESTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The last change of one item."""

    number: int
    """Number of the record."""
    item: Item | None
    """The item, None where it was deleted."""
    vector_D: F32Array | None
    """Its embedding."""


class Delta:
    """The changes of one space of embeddings; safe for many threads, and for many processes.

    Args:
        store: the workspace.
        fingerprint: of the encoder whose embeddings these are.
        dimension: D.
        metric: how closeness is computed; under cosine vectors are brought to unit length.

    Raises:
        CorruptArtifactError: the log is damaged before its end.
        StorageError: the disk is full or failed.
    """

    def __init__(self, store: Store, *, fingerprint: str, dimension: int, metric: Metric) -> None:
        self._directory = store.root / "delta" / fingerprint[:32]
        with storage_guard(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        self._dimension = dimension
        self._metric = metric
        self._lock = threading.Lock()
        self._log = WriteAheadLog(self._directory / "log.wal")
        self._changes: dict[str, Change] = {}
        self._requests: dict[str, int] = {}
        self.number = 0
        """Number of the last record known here."""
        with self._lock, self._writing():
            self._take_in(repair=True)

    def catch_up(self) -> bool:
        """Takes in what other processes wrote; returns whether there was anything."""
        with self._lock:
            return self._take_in(repair=False)

    def changes(self, *, after: int = 0) -> Mapping[str, Change]:
        """Returns the last change of each item, of records with a number above ``after``."""
        with self._lock:
            return {item_id: change for item_id, change in self._changes.items() if change.number > after}

    def upsert(self, items: Sequence[Item], x_MD: F32Array, *, request_id: str = "") -> int:
        """Adds or replaces items; when this returns they are on disk.

        Args:
            items: the items, ids unique; ``added_at`` is set here.
            x_MD: their embeddings, float32, finite.
            request_id: a request that is repeated with the same id has no further effect. Default: none.

        Returns:
            Number of items.

        Raises:
            InvalidArgumentError: an id or metadata value is wrong.
            DimensionMismatchError, InvalidVectorError: a vector is wrong.
            StorageError: the disk is full; nothing was added.
        """
        x_MD = self._checked(items, x_MD)
        now = datetime.now(UTC).isoformat()
        described = [_describe(item, now) for item in items]
        self._write({"op": "upsert", "items": described, "request_id": request_id}, x_MD.astype("<f4").tobytes())
        return len(items)

    def delete(self, item_ids: Sequence[str], *, request_id: str = "") -> None:
        """Deletes items, known or not; when this returns that is on disk.

        Args:
            item_ids: ids.
            request_id: as for ``upsert``.

        Raises:
            StorageError: the disk is full; nothing was deleted.
        """
        self._write({"op": "delete", "item_ids": list(item_ids), "request_id": request_id}, b"")

    def _checked(self, items: Sequence[Item], x_MD: F32Array) -> F32Array:
        if x_MD.shape != (len(items), self._dimension):
            raise DimensionMismatchError(f"vectors have shape {x_MD.shape}, wanted ({len(items)}, {self._dimension})")
        norms_M = np.linalg.norm(x_MD.astype(np.float64), axis=1)
        if not np.isfinite(norms_M).all() or (self._metric is Metric.COSINE and not norms_M.all()):
            raise InvalidVectorError("an embedding is not finite, or zero under cosine")
        for item in items:
            if not 1 <= len(item.item_id.encode()) <= MAX_ID_BYTES:
                raise InvalidArgumentError(f"item id {item.item_id[:50]!r} is empty or over {MAX_ID_BYTES} bytes")
            for value in item.metadata.values():
                kind_of(value)
        if len({item.item_id for item in items}) < len(items):
            raise InvalidArgumentError("the same item id was given twice in one request")
        return (x_MD / norms_M[:, None]).astype(np.float32) if self._metric is Metric.COSINE else x_MD

    def _writing(self) -> Any:
        return locked(self._directory / ".lock", shared=False, wait=True)

    def _write(self, head: JsonObject, tail: bytes) -> None:
        with self._lock, self._writing():
            self._take_in(repair=True)
            if head["request_id"] and head["request_id"] in self._requests:
                return
            text = json.dumps({**head, "number": self.number + 1}).encode()
            body = _LENGTH.pack(len(text)) + text + tail
            self._log.append(body)
            self._apply(body)

    def _take_in(self, *, repair: bool) -> bool:
        records = self._log.read_new(repair=repair)
        for body in records:
            self._apply(body)
        return bool(records)

    def _apply(self, body: bytes) -> None:
        (length,) = _LENGTH.unpack_from(body)
        head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        self.number = head["number"]
        if head["request_id"]:
            self._requests[head["request_id"]] = self.number
            while len(self._requests) > _REMEMBERED_REQUESTS:
                self._requests.pop(next(iter(self._requests)))
        if head["op"] == "delete":
            for item_id in head["item_ids"]:
                self._changes[item_id] = Change(number=self.number, item=None, vector_D=None)
            return
        x_MD = np.frombuffer(body, "<f4", offset=_LENGTH.size + length).reshape(-1, self._dimension)
        for row, described in enumerate(head["items"]):
            item = _restore(described)
            vector_D = np.array(x_MD[row], dtype=np.float32)
            self._changes[item.item_id] = Change(number=self.number, item=item, vector_D=vector_D)


def _describe(item: Item, now: str) -> JsonObject:
    metadata = {
        name: {"time": value.isoformat()} if isinstance(value, datetime) else value
        for name, value in item.metadata.items()
    }
    core = {name: getattr(item, name) for name in ("item_id", "digest", "source", "path", "label")}
    return {**core, "added_at": now, "metadata": metadata}


def _restore(described: JsonObject) -> Item:
    metadata: dict[str, MetadataValue] = {
        name: datetime.fromisoformat(value["time"]) if isinstance(value, dict) else value
        for name, value in described["metadata"].items()
    }
    return Item(
        **{name: described[name] for name in ("item_id", "digest", "source", "path", "label")},
        added_at=datetime.fromisoformat(described["added_at"]),
        metadata=metadata,
    )
