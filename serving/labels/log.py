"""The label log of a workspace: writes are one transaction each, on disk before they are acknowledged."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from serving.labels import edits, history, reads, schema
from serving.labels.records import PREFIX, Batch, Conflict, Entry, LabelRow, LabelSet, check_author, plain_name
from vicinal.errors import AlreadyExistsError, LabelSetNotFoundError, did_you_mean
from vicinal.store import Store

FILE = "labels.db"


class LabelLog:
    """The label log; safe to use from several threads and processes.

    Args:
        path: its SQLite file; made if there is none.

    Raises:
        CorruptArtifactError: the file is damaged; it is not touched.
        StorageError: it cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if not path.exists():
            if path.with_name(f"{path.name}-wal").exists():
                raise schema.corrupt(path, "is missing beside its write-ahead log")
            schema.create(path)
        self._connection()

    def close(self) -> None:
        """Closes every connection; the log may be opened again."""
        with self._lock:
            while self._all:
                self._all.pop().close()
            self._local = threading.local()

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Holds a write transaction; it is on disk when the block ends well, and has no effect otherwise.

        Raises:
            BusyError: another process held the log for over 20 seconds.
            StorageError: the disk is full or failed; nothing was written.
        """
        connection = self._connection()
        with self._lock, schema.guard(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Holds one consistent view of the log.

        Raises:
            CorruptArtifactError: the file is damaged.
        """
        connection = self._connection()
        with schema.guard(self.path):
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def create_set(self, name: str, *, multi_label: bool = False) -> LabelSet:
        """Makes a label set.

        Raises:
            InvalidLabelError: a bad name.
            AlreadyExistsError: there is one, or a deleted one, of that name.
        """
        plain = plain_name(name)
        with self.writing() as db:
            row = db.execute("SELECT id FROM label_sets WHERE name = ?", (plain,)).fetchone()
            if row is not None:
                way = "; it was deleted: undo that" if reads.is_deleted(db, row[0]) else ""
                raise AlreadyExistsError(f"label set {PREFIX}{plain} exists{way}", metadata={"name": PREFIX + plain})
            db.execute(
                "INSERT INTO label_sets(name, multi_label, created_us) VALUES (?, ?, ?)",
                (plain, int(multi_label), time.time_ns() // 1000),
            )
        return self.get_set(plain)

    def get_set(self, name: str, *, version: int | None = None) -> LabelSet:
        """Returns a label set with its counts.

        Raises:
            LabelSetNotFoundError: no such set or version.
        """
        with self.reading() as db:
            found = find(db, name)
            return reads.describe(db, found, version=reads.check_version(db, found, version))

    def list_sets(self) -> list[LabelSet]:
        """Returns all label sets by name; deleted ones are left out."""
        with self.reading() as db:
            names = [row[0] for row in db.execute("SELECT name FROM label_sets ORDER BY name")]
            sets = [find(db, name, deleted=True) for name in names]
            return [
                reads.describe(db, one, version=reads.newest(db, one.id))
                for one in sets
                if not reads.is_deleted(db, one.id)
            ]

    def check_version(self, name: str, version: int | None) -> int:
        """Returns a version of a set, the newest for None.

        Raises:
            LabelSetNotFoundError: no such set or version.
        """
        with self.reading() as db:
            return reads.check_version(db, find(db, name), version)

    def put(
        self, name: str, entries: Sequence[Entry], *, request_id: str = "", snapshot: str = "", verb: str = "put"
    ) -> Batch:
        """Labels items, as one batch.

        Args:
            name: the set.
            entries: the labels, at least 1.
            request_id: a repetition with the same id has no effect and returns the same batch.
            snapshot: the active one, for the record.
            verb: ``put``, ``accept`` or ``import``.

        Raises:
            InvalidLabelError: no entries, a bad one, or one item under two labels of a single-label set.
            LabelSetNotFoundError: no such set.
        """
        with self.writing() as db:
            return edits.put(db, find(db, name), entries, verb=verb, request_id=request_id, snapshot=snapshot)

    def remove(
        self, name: str, pairs: Sequence[tuple[str, str | None]], *, author: str = "", request_id: str = ""
    ) -> Batch:
        """Takes labels off items, as one batch; what an item does not have is passed over.

        Args:
            name: the set.
            pairs: items with a label, or with None for all of their labels.
            author: who does it.
            request_id: as for ``put``.
        """
        with self.writing() as db:
            found = find(db, name)
            return edits.remove(db, found, pairs, author=check_author(author), request_id=request_id)

    def rename(self, name: str, label: str, new_label: str, *, author: str = "") -> tuple[Batch, bool]:
        """Renames a class; onto one that exists, it merges the two.

        Returns:
            The batch, and whether two classes became one.
        """
        with self.writing() as db:
            return edits.rename(db, find(db, name), label, new_label, author=check_author(author))

    def delete_set(self, name: str, *, author: str = "") -> Batch:
        """Hides a set; undoing the batch brings it back."""
        with self.writing() as db:
            found = find(db, name)
            return edits.append_batch(db, found.id, verb="delete", author=check_author(author))

    def undo(self, name: str, batch: int = 0, *, author: str = "") -> Batch:
        """Undoes a batch (0: the newest that is not undone) by an inverse batch."""
        with self.writing() as db:
            return history.undo(db, find(db, name, deleted=True), batch, author=check_author(author))

    def redo(self, name: str, batch: int = 0, *, author: str = "") -> Batch:
        """Does an undone batch (0: the last undone) again."""
        with self.writing() as db:
            return history.redo(db, find(db, name), batch, author=check_author(author))

    def labels(
        self, name: str, *, version: int | None = None, label: str = "", after: str = "", limit: int = 0
    ) -> list[LabelRow]:
        """Returns the labels that hold, by item id and label.

        Args:
            name: the set.
            version: as of this version; default the newest.
            label: only this class.
            after: only items whose id comes after this one.
            limit: this many at most, but all labels of the last item; 0 for all.
        """
        with self.reading() as db:
            found = find(db, name)
            version = reads.check_version(db, found, version)
            return reads.labels(db, found.id, version=version, label=label, after=after, limit=limit)

    def labels_of_items(self, name: str, *, version: int | None = None) -> list[tuple[str, str | None]]:
        """Returns what a classifier learns from: items and their labels, without items in conflict."""
        rows = self.labels(name, version=version)
        disputed = {conflict.item_id for conflict in self.conflicts(name)}
        return [(row.item_id, row.label) for row in rows if row.item_id not in disputed]

    def batches(self, name: str, *, before: int = 0, limit: int = 100) -> list[Batch]:
        """Returns batches, newest first, those before a number (0: all)."""
        with self.reading() as db:
            return reads.batches(db, find(db, name, deleted=True).id, before=before, limit=limit)

    def conflicts(self, name: str) -> list[Conflict]:
        """Returns the items on which two people disagree, by item id."""
        with self.reading() as db:
            found = find(db, name)
            return reads.conflicts(db, found.id, multi_label=found.multi_label)

    def labelled_items(self, name: str) -> set[str]:
        """Returns the ids of the items that have a label or are marked as none of the classes."""
        return {row.item_id for row in self.labels(name)}

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = schema.connect(self.path)
            with self._lock:
                self._all.append(connection)
        return connection


def find(db: sqlite3.Connection, name: str, *, deleted: bool = False) -> edits.SetRow:
    """Returns the row of a label set.

    Raises:
        LabelSetNotFoundError: there is none, or it is deleted and ``deleted`` is false.
    """
    plain = plain_name(name)
    row = edits.set_row(db, plain)
    if row is not None:
        found = edits.SetRow(*row)
        if deleted or not reads.is_deleted(db, found.id):
            return found
    known: Iterable[str] = [one[0] for one in db.execute("SELECT name FROM label_sets LIMIT 1000")]
    state = "was deleted; undo that" if row is not None else "does not exist; make it: vicinal label create"
    hint = "" if row is not None else did_you_mean(plain, known)
    raise LabelSetNotFoundError(f"label set {PREFIX}{plain} {state}{hint}", metadata={"name": PREFIX + plain})


_SHARED: dict[str, LabelLog] = {}
_SHARED_LOCK = threading.Lock()


def shared_log(store: Store) -> LabelLog:
    """Returns the label log of a workspace; callers in one process share it."""
    path = store.root / "labels" / FILE
    with _SHARED_LOCK:
        log = _SHARED.get(str(path))
        if log is None or not path.exists():
            log = LabelLog(path)
            _SHARED[str(path)] = log
        return log
