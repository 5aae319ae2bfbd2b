"""Items added and deleted since the snapshot was built: on disk before they are acknowledged, searchable at once.

    WORKSPACE/delta/FINGERPRINT/000000000001.wal ...   the log of changes
    WORKSPACE/delta/FINGERPRINT/dropped.json           what is kept of changes that every snapshot holds

Each record has a number that only grows. A snapshot says up to which number it holds the changes;
later ones lie over it, so a rollback and a refresh that runs meanwhile lose none.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from index.delta_records import Dropped, Record, check_held, decode, read_dropped, without_content
from index.delta_writes import Group, Rows, Write, checked_write
from index.wal import LogRewrittenError, WriteAheadLog
from vicinal.artifact import storage_guard
from vicinal.errors import CorruptArtifactError
from vicinal.items import Item
from vicinal.locks import locked
from vicinal.store import Store
from vicinal.types import F32Array, Metric

REMEMBERED_REQUESTS = 10_000
_EPOCHS = itertools.count(1)
DELTA = "delta"
"""Folder of the logs in a workspace."""
LOCK = ".lock"
"""Held by who writes to a log or drops from it, in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The last change of one item."""

    number: int
    """Number of the record."""
    item: Item | None
    """The item, None where it was deleted."""
    vector_D: F32Array | None
    """Its embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The changes after a number; immutable."""

    number: int
    """Number of the last of them."""
    epoch: int
    """Another one makes nothing of what was known before."""
    items: Sequence[Item]
    """Every item that was upserted after it, in order; also those that later changes replaced."""
    x_MD: F32Array
    """Their embeddings, float32 (M, D)."""
    changed: Mapping[str, int]
    """Items that changed and their places in ``items``, -1 for the deleted."""


class Delta:
    """The changes of one space of embeddings; safe for many threads, and for many processes.

    Args:
        store: the workspace.
        fingerprint: of the encoder whose embeddings these are.
        dimension: D.
        metric: how closeness is computed; under cosine vectors are brought to unit length.
        after: number up to which changes are of no interest. Default: all that there are.

    Raises:
        CorruptArtifactError: the log is damaged before its end.
        FailedPreconditionError: changes after that number were dropped.
    """

    def __init__(
        self, store: Store, *, fingerprint: str, dimension: int, metric: Metric, after: int | None = None
    ) -> None:
        self._directory = store.root / DELTA / fingerprint[:32]
        self._dimension = dimension
        self._metric = metric
        self._after = after
        self._lock = threading.Lock()
        self._log = WriteAheadLog(self._directory)
        self.epoch = 0
        """Another one each time that the log had to be read from its start, in the whole process."""
        self.number = 0
        """Number of the last record known here."""
        with self._lock:
            self._reload()

    def catch_up(self) -> bool:
        """Takes in what other processes wrote; returns whether there was anything."""
        with self._lock:
            return self._take_in(repair=False)

    def changes(self, *, after: int = 0) -> Mapping[str, Change]:
        """Returns the last change of each item, of records with a number above ``after``."""
        with self._lock:
            x_MD = self._rows.view(0)
            found: dict[str, Change] = {}
            for record in self._records_after(after):
                for place, item_id in enumerate(record.item_ids, start=record.ordinal - self._first):
                    known = not record.is_delete
                    found[item_id] = Change(
                        number=record.number,
                        item=self._items[place] if known else None,
                        vector_D=x_MD[place] if known else None,
                    )
            return found

    def settled(self) -> frozenset[str]:
        """Returns every item that was ever changed here: there the corpora have no say."""
        return frozenset(self._ever())

    def deleted(self) -> frozenset[str]:
        """Returns every item whose last change here was its deletion."""
        return frozenset(item_id for item_id, there in self._ever().items() if not there)

    def _ever(self) -> dict[str, bool]:
        dropped = read_dropped(self._directory)
        found = dict.fromkeys(dropped.item_ids, True) | dict.fromkeys(dropped.deleted_ids, False)
        for body in WriteAheadLog(self._directory).read_new(repair=False):
            record = decode(body)
            if record.number > dropped.number:
                found.update(dict.fromkeys(record.item_ids, not record.is_delete))
        return found

    def tail(self, *, after: int, since: int | None = None) -> Tail:
        """Returns the changes after a number, to be laid over a snapshot that holds those up to it.

        Args:
            after: the number, at least that of the constructor.
            since: name only items that changed after this number. Default: ``after``.
        """
        with self._lock:
            records = self._records_after(after)
            first = records[0].ordinal if records else self._ordinal
            changed: dict[str, int] = {}
            for record in self._records_after(after if since is None else max(after, since)):
                for place, item_id in enumerate(record.item_ids, start=record.ordinal - first):
                    changed[item_id] = -1 if record.is_delete else place
            start = first - self._first
            return Tail(
                number=self.number,
                epoch=self.epoch,
                items=self._items[start:],
                x_MD=self._rows.view(start),
                changed=changed,
            )

    def prepare(self, items: Sequence[Item], x_MD: F32Array, *, request_id: str = "") -> Write:
        """Returns an upsert that ``write`` takes.

        Args:
            items: the items, ids unique; ``added_at`` is set when they are written.
            x_MD: their embeddings, float32, finite.
            request_id: a request that is repeated with the same id has no further effect. Default: none.

        Raises:
            InvalidArgumentError: an id or metadata value is wrong.
            DimensionMismatchError, InvalidVectorError: a vector is wrong.
        """
        return checked_write(items, x_MD, dimension=self._dimension, metric=self._metric, request_id=request_id)

    def write(self, writes: Sequence[Write], *, known: Callable[[str], bool] | None = None) -> list[int]:
        """Writes changes with one flush; when this returns they are on disk.

        Args:
            writes: upserts and deletions, in order.
            known: says whether the snapshot holds an item; others are not deleted. Default: any may be.

        Returns:
            For each, how many items were upserted, or were there to be deleted; of a repeated request, as at first.

        Raises:
            StorageError: the disk is full; nothing was changed.
        """
        with self._lock, self._writing():
            self._take_in(repair=True)
            group = Group(number=self.number, ordinal=self._ordinal, requests=self._requests)
            counts = [group.add(write, lambda item_id: self._is_there(item_id, known)) for write in writes]
            if group.bodies:
                self._log.append(group.bodies, number=self.number + 1)
                self._apply_all(group.bodies)
            return counts

    def upsert(self, items: Sequence[Item], x_MD: F32Array, *, request_id: str = "") -> int:
        """Adds or replaces items; when this returns they are on disk. See ``prepare`` and ``write``."""
        return self.write([self.prepare(items, x_MD, request_id=request_id)])[0]

    def delete(self, item_ids: Sequence[str], *, request_id: str = "") -> int:
        """Deletes items, known or not; when this returns that is on disk. See ``write``."""
        return self.write([Write(item_ids=item_ids, request_id=request_id)])[0]

    def _is_there(self, item_id: str, known: Callable[[str], bool] | None) -> bool:
        if item_id in self._last:
            return self._last[item_id]
        return known is None or known(item_id)

    def _writing(self) -> Any:
        with storage_guard(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        return locked(self._directory / LOCK, shared=False, wait=True)

    def _take_in(self, *, repair: bool) -> bool:
        try:
            found = self._apply_all(self._log.read_new(repair=repair))
        except LogRewrittenError:
            self._reload()
            self._apply_all(self._log.read_new(repair=repair))
            return True
        return found

    def _reload(self) -> None:
        for _ in range(3):  # records may be dropped between the first look and the second
            self._forget(read_dropped(self._directory))
            try:
                self._apply_all(self._log.read_new(repair=False))
            except LogRewrittenError:
                continue
            self.number = max(self.number, self._floor)
            return
        raise CorruptArtifactError(f"the log in {self._directory} lacks records; restore it from a copy")

    def _forget(self, dropped: Dropped) -> None:
        if self._after is not None:
            check_held(dropped, self._after)
        self._floor = dropped.number if self._after is None else self._after
        self.number, self._ordinal = dropped.number, dropped.ordinal
        self._first = dropped.ordinal
        self._requests = dict(dropped.requests)
        self._records: list[Record] = []
        self._items: list[Item] = []
        self._rows = Rows(self._dimension)
        self._last: dict[str, bool] = {}
        self.epoch = next(_EPOCHS)
        self._log.rewind()

    def _records_after(self, number: int) -> list[Record]:
        return self._records[max(0, number - self._floor) :]

    def _apply_all(self, bodies: Iterable[bytes]) -> bool:
        before = self.number
        for body in bodies:
            record = decode(body)
            if record.number > self.number:
                if record.number != self.number + 1 and self.number > self._floor:
                    raise LogRewrittenError
                self._apply(record)
        return self.number != before

    def _apply(self, record: Record) -> None:
        self.number = record.number
        self._ordinal = record.ordinal + len(record.described)
        if record.request_id:
            self._requests[record.request_id] = record.count
            while len(self._requests) > REMEMBERED_REQUESTS:
                self._requests.pop(next(iter(self._requests)))
        if record.number <= self._floor:
            self._first = self._ordinal
            return
        if not self._records:
            self._check_start(record)
        self._items += record.items()
        if not record.is_delete:
            self._rows.extend(record.vectors(self._dimension))
        self._last.update(dict.fromkeys(record.item_ids, not record.is_delete))
        self._records.append(without_content(record))

    def _check_start(self, record: Record) -> None:
        if self._after is None:
            self._floor = record.number - 1
        elif record.number != self._floor + 1:
            raise CorruptArtifactError(
                f"the log in {self._directory} lacks the records {self._floor + 1} to {record.number - 1}; "
                "restore it from a copy"
            )
        self._first = record.ordinal
