"""How each change of a label set is written into the log; all inside one transaction of the caller."""

import math
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.fewshot.model import check_label
from serving.labels import reads
from serving.labels.records import Batch, Entry, Source, check_author, check_item_id, moment
from vicinal.errors import InvalidLabelError, LabelSetNotFoundError, did_you_mean

ENTRY_LIMIT = 1_000_000
MAX_REQUEST_ID = 128


class SetRow(NamedTuple):
    """A row of ``label_sets``."""

    id: int
    name: str
    multi_label: bool
    created_us: int


class Held(NamedTuple):
    """A label that holds."""

    id: int
    root: int
    item_id: str
    label: str | None
    source: int
    author: str
    confidence: float
    snapshot: str
    rival: int | None


HELD = "a.id, a.root, a.item_id, a.label, a.source, a.author, a.confidence, a.snapshot, a.rival"
_OF_ITEM = (
    f"SELECT {HELD} FROM adds a WHERE a.set_id = ? AND a.item_id = ? "  # noqa: S608 - constants
    "AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.add_id = a.id)"
)


@dataclass(slots=True)
class Writer:
    """Appends adds and drops of one batch."""

    db: sqlite3.Connection
    set_id: int
    batch: int
    change_count: int = 0

    def held(self, item_id: str) -> list[Held]:
        """Returns the labels of an item that hold now."""
        return [Held(*row) for row in self.db.execute(_OF_ITEM, (self.set_id, item_id))]

    def drop(self, held: Held) -> None:
        """Takes a label off."""
        self.db.execute("INSERT INTO drops(add_id, set_id, batch) VALUES (?, ?, ?)", (held.id, self.set_id, self.batch))

    def add(self, held: Held, *, root: int | None) -> None:
        """Puts a label on; without a root it starts its own history."""
        cursor = self.db.execute(
            "INSERT INTO adds(root, set_id, batch, item_id, label, source, author, confidence, created_us, snapshot,"
            " rival) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                root or 0, self.set_id, self.batch, held.item_id, held.label, held.source, held.author,
                held.confidence, time.time_ns() // 1000, held.snapshot, held.rival,
            ),
        )  # fmt: skip
        if root is None:
            self.db.execute("UPDATE adds SET root = id WHERE id = ?", (cursor.lastrowid,))


def set_row(db: sqlite3.Connection, plain: str) -> tuple[int, str, bool, int] | None:
    """Returns the row of a label set by its id, or None."""
    row = db.execute("SELECT id, name, multi_label, created_us FROM label_sets WHERE name = ?", (plain,)).fetchone()
    return None if row is None else (row[0], row[1], bool(row[2]), row[3])


def append_batch(
    db: sqlite3.Connection,
    set_id: int,
    *,
    verb: str,
    author: str,
    target: int = 0,
    request: tuple[str, str] = ("", ""),
) -> Batch:
    """Appends an empty batch and returns it.

    Args:
        db: the transaction.
        set_id: the set.
        verb: what the batch does.
        author: who does it.
        target: the batch that it undoes or redoes.
        request: the request id and the active snapshot, each may be empty.
    """
    number = reads.newest(db, set_id) + 1
    created_us = time.time_ns() // 1000
    db.execute(
        "INSERT INTO batches(set_id, number, verb, author, created_us, target, change_count, request_id, snapshot)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
        (set_id, number, verb, author, created_us, target, request[0] or None, request[1]),
    )
    return Batch(number=number, verb=verb, author=author, created_at=moment(created_us), change_count=0, target=target)


def put(
    db: sqlite3.Connection, found: SetRow, entries: Sequence[Entry], *, verb: str, request_id: str, snapshot: str
) -> Batch:
    """Labels items, as one batch; see ``LabelLog.put``."""
    before = repeated(db, found.id, request_id)
    if before is not None:
        return before
    _check_entries(found, entries)
    author = entries[0].author if len({entry.author for entry in entries}) == 1 else ""
    batch = append_batch(db, found.id, verb=verb, author=author, request=(request_id, snapshot))
    writer = Writer(db, found.id, batch.number)
    for entry in entries:
        if _put_one(writer, entry, multi_label=found.multi_label, snapshot=snapshot):
            writer.change_count += 1
    return finish(db, batch, writer)


def remove(
    db: sqlite3.Connection,
    found: SetRow,
    pairs: Sequence[tuple[str, str | None]],
    *,
    author: str,
    request_id: str,
) -> Batch:
    """Takes labels off items, as one batch; see ``LabelLog.remove``."""
    before = repeated(db, found.id, request_id)
    if before is not None:
        return before
    if not pairs:
        raise InvalidLabelError("no labels to remove; name at least one item", field="labels")
    batch = append_batch(db, found.id, verb="remove", author=author, request=(request_id, ""))
    writer = Writer(db, found.id, batch.number)
    for item_id, label in pairs:
        for held in writer.held(check_item_id(item_id)):
            if label is None or held.label == label:
                writer.drop(held)
                writer.change_count += 1
    return finish(db, batch, writer)


def rename(db: sqlite3.Connection, found: SetRow, label: str, new_label: str, *, author: str) -> tuple[Batch, bool]:
    """Renames or merges a class; see ``LabelLog.rename``."""
    check_label(new_label)
    classes = reads.class_counts(db, found.id, version=reads.newest(db, found.id))
    if label not in classes:
        hint = did_you_mean(label, [known for known in classes if known])
        raise LabelSetNotFoundError(f"{found.name!r} has no class {label[:80]!r}{hint}")
    if label == new_label:
        raise InvalidLabelError(f"class {label!r} has that name already", field="new_label")
    batch = append_batch(db, found.id, verb="rename", author=author)
    writer = Writer(db, found.id, batch.number)
    rows = db.execute(
        f"SELECT {HELD} FROM adds a WHERE a.set_id = ? AND a.label = ? "  # noqa: S608 - constants
        "AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.add_id = a.id)",
        (found.id, label),
    ).fetchall()
    for row in rows:
        held = Held(*row)
        writer.drop(held)
        writer.change_count += 1
        if not (found.multi_label and any(other.label == new_label for other in writer.held(held.item_id))):
            writer.add(held._replace(label=new_label), root=held.root)
    return finish(db, batch, writer), new_label in classes


def _put_one(writer: Writer, entry: Entry, *, multi_label: bool, snapshot: str) -> bool:
    held = writer.held(entry.item_id)
    if any(_says_the_same(one, entry) for one in held):
        return False
    if multi_label and entry.label is not None:
        rivals = [one for one in held if one.label is None or one.label == entry.label]
    else:
        rivals = held
    if entry.source is Source.PROPAGATED and any(one.source != Source.PROPAGATED for one in rivals):
        return False  # what a person said or a file held stands
    disputed = next((one.id for one in rivals if not multi_label and _disputes(one, entry)), None)
    for one in rivals:
        writer.drop(one)
    new = Held(0, 0, entry.item_id, entry.label, int(entry.source), entry.author, entry.confidence, snapshot, disputed)
    writer.add(new, root=None)
    return True


def _says_the_same(held: Held, entry: Entry) -> bool:
    return held.rival is None and (held.label, held.source, held.author, held.confidence) == (
        entry.label,
        int(entry.source),
        entry.author,
        entry.confidence,
    )


def _disputes(held: Held, entry: Entry) -> bool:
    people = held.source != Source.PROPAGATED and entry.source is not Source.PROPAGATED
    return people and held.rival is None and held.author != entry.author and held.label != entry.label


def _said_by(entry: Entry) -> tuple[str, str]:
    return entry.item_id, entry.author


def _check_entries(found: SetRow, entries: Sequence[Entry]) -> None:
    if not 1 <= len(entries) <= ENTRY_LIMIT:
        raise InvalidLabelError(f"{len(entries):,} labels in a batch, wanted 1 to {ENTRY_LIMIT:,}", field="labels")
    seen: dict[tuple[str, str], str | None] = {}
    for entry in entries:
        check_item_id(entry.item_id)
        check_author(entry.author)
        if entry.label is not None:
            check_label(entry.label)
        if not (math.isfinite(entry.confidence) and 0 <= entry.confidence <= 1):
            raise InvalidLabelError(f"confidence is {entry.confidence}, wanted 0 to 1", field="labels.confidence")
        if not found.multi_label and seen.setdefault(_said_by(entry), entry.label) != entry.label:
            raise InvalidLabelError(
                f"item {entry.item_id[:200]!r} has two labels in one request, {seen[_said_by(entry)]!r} and "
                f"{entry.label!r}, and the set {found.name!r} takes one an item",
                metadata={"item_id": entry.item_id[:200]},
            )


def repeated(db: sqlite3.Connection, set_id: int, request_id: str) -> Batch | None:
    """Returns the batch that a request made before, or None.

    Raises:
        InvalidLabelError: the id is too long.
    """
    if not request_id:
        return None
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidLabelError(f"request_id has {len(request_id)} characters, wanted at most {MAX_REQUEST_ID}")
    row = db.execute("SELECT number FROM batches WHERE set_id = ? AND request_id = ?", (set_id, request_id)).fetchone()
    return None if row is None else reads.batch(db, set_id, row[0])


def finish(db: sqlite3.Connection, batch: Batch, writer: Writer, *, skipped_count: int = 0) -> Batch:
    """Records how much a batch changed and returns it."""
    db.execute(
        "UPDATE batches SET change_count = ? WHERE set_id = ? AND number = ?",
        (writer.change_count, writer.set_id, batch.number),
    )
    return Batch(
        number=batch.number,
        verb=batch.verb,
        author=batch.author,
        created_at=batch.created_at,
        change_count=writer.change_count,
        target=batch.target,
        skipped_count=skipped_count,
    )
