"""What can be read from the label log; all inside one transaction of the caller."""

import sqlite3
from typing import TYPE_CHECKING

from serving.labels.records import PREFIX, Batch, Conflict, LabelRow, LabelSet, Source, moment
from vicinal.errors import FailedPreconditionError, LabelSetNotFoundError

if TYPE_CHECKING:
    from serving.labels.edits import SetRow

UndoState = dict[int, tuple[str, int]]
"""By batch: the verb that last befell it, ``undo`` or ``redo``, and the number of the batch that did."""
_COLUMNS = "a.item_id, a.label, a.source, a.author, a.confidence, a.created_us, a.batch, a.snapshot"
_HOLDS = "NOT EXISTS (SELECT 1 FROM drops d WHERE d.add_id = a.id AND d.batch <= :version)"


def newest(db: sqlite3.Connection, set_id: int) -> int:
    """Returns the number of the newest batch of a set, 0 when it has none."""
    found: int = db.execute("SELECT coalesce(max(number), 0) FROM batches WHERE set_id = ?", (set_id,)).fetchone()[0]
    return found


def check_version(db: sqlite3.Connection, found: "SetRow", version: int | None) -> int:
    """Returns a version of a set, the newest for None.

    Raises:
        LabelSetNotFoundError: the set has no such version.
    """
    last = newest(db, found.id)
    if version is None:
        return last
    if not 0 <= version <= last:
        raise LabelSetNotFoundError(f"{PREFIX}{found.name} has versions 0 to {last}, not {version}")
    return version


def is_deleted(db: sqlite3.Connection, set_id: int) -> bool:
    """Returns whether a set is hidden by a batch that is not undone."""
    row = db.execute(
        "SELECT number FROM batches WHERE set_id = ? AND verb = 'delete' ORDER BY number DESC LIMIT 1", (set_id,)
    ).fetchone()
    return row is not None and undo_state(db, set_id).get(row[0], ("redo", 0))[0] != "undo"


def undo_state(db: sqlite3.Connection, set_id: int) -> UndoState:
    """Returns what last befell each batch that was ever undone."""
    rows = db.execute(
        "SELECT target, verb, number FROM batches WHERE set_id = ? AND target > 0 ORDER BY number", (set_id,)
    )
    return {target: (verb, number) for target, verb, number in rows}


def newest_undoable(db: sqlite3.Connection, set_id: int, state: UndoState) -> int:
    """Returns the newest batch that is neither undone nor an undo.

    Raises:
        FailedPreconditionError: there is none.
    """
    rows = db.execute(
        "SELECT number FROM batches WHERE set_id = ? AND verb NOT IN ('undo', 'redo') ORDER BY number DESC", (set_id,)
    )
    for (number,) in rows:
        if state.get(number, ("redo", 0))[0] != "undo":
            return int(number)
    raise FailedPreconditionError("there is nothing to undo")


def class_counts(db: sqlite3.Connection, set_id: int, *, version: int) -> dict[str | None, int]:
    """Returns the number of items of each class at a version, None for none of the classes."""
    rows = db.execute(
        f"SELECT a.label, count(*) FROM adds a WHERE a.set_id = :set AND a.batch <= :version AND {_HOLDS} "  # noqa: S608 - constants of ours; values are bound
        "GROUP BY a.label ORDER BY a.label",
        {"set": set_id, "version": version},
    )
    return dict(rows.fetchall())


def describe(db: sqlite3.Connection, found: "SetRow", *, version: int) -> LabelSet:
    """Returns a label set as of a version."""
    counts = class_counts(db, found.id, version=version)
    return LabelSet(
        name=PREFIX + found.name,
        multi_label=found.multi_label,
        version=version,
        classes={label: count for label, count in counts.items() if label is not None},
        negative_count=counts.get(None, 0),
        created_at=moment(found.created_us),
    )


def labels(
    db: sqlite3.Connection, set_id: int, *, version: int, label: str = "", after: str = "", limit: int = 0
) -> list[LabelRow]:
    """Returns the labels that hold at a version, by item id and label; see ``LabelLog.labels``."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM adds a WHERE a.set_id = :set AND a.batch <= :version AND a.item_id > :after "  # noqa: S608 - constants of ours; values are bound
        f"AND (:label = '' OR a.label = :label) AND {_HOLDS} ORDER BY a.item_id, a.label",
        {"set": set_id, "version": version, "after": after, "label": label},
    )
    found: list[LabelRow] = []
    for row in rows:
        if limit and len(found) >= limit and row[0] != found[-1].item_id:
            break
        found.append(_label(row))
    return found


def batches(db: sqlite3.Connection, set_id: int, *, before: int, limit: int) -> list[Batch]:
    """Returns batches, newest first, those before a number (0: all)."""
    state = undo_state(db, set_id)
    rows = db.execute(
        "SELECT number, verb, author, created_us, change_count, target FROM batches "
        "WHERE set_id = ? AND (? = 0 OR number < ?) ORDER BY number DESC LIMIT ?",
        (set_id, before, before, limit),
    )
    return [
        Batch(
            number=number,
            verb=verb,
            author=author,
            created_at=moment(created_us),
            change_count=change_count,
            target=target,
            undone=state.get(number, ("redo", 0))[0] == "undo",
        )
        for number, verb, author, created_us, change_count, target in rows
    ]


def batch(db: sqlite3.Connection, set_id: int, number: int) -> Batch:
    """Returns one batch, which must be there."""
    return batches(db, set_id, before=number + 1, limit=1)[0]


def conflicts(db: sqlite3.Connection, set_id: int, *, multi_label: bool) -> list[Conflict]:
    """Returns the items on which two people disagree, by item id.

    In a single-label set: the label that holds replaced one by another person and nobody has
    spoken since. In a multi-label set: one person's label was taken off by another person.
    """
    if multi_label:
        query = (
            f"SELECT {_COLUMNS}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM drops x "  # noqa: S608 - constants of ours; values are bound
            "JOIN adds a ON a.id = x.add_id JOIN batches b ON b.set_id = x.set_id AND b.number = x.batch "
            "WHERE x.set_id = :set AND a.source != 2 AND b.verb = 'remove' AND b.author != a.author AND NOT EXISTS "
            "(SELECT 1 FROM adds l WHERE l.set_id = :set AND l.item_id = a.item_id AND l.label IS a.label "
            "AND l.batch > x.batch) ORDER BY a.item_id"
        )
    else:
        other = _COLUMNS.replace("a.", "r.")
        query = (
            f"SELECT {_COLUMNS}, {other} FROM adds a JOIN adds r ON r.id = a.rival "  # noqa: S608 - constants of ours; values are bound
            f"WHERE a.set_id = :set AND r.label IS NOT a.label AND {_HOLDS} ORDER BY a.item_id"
        )
    rows = db.execute(query, {"set": set_id, "version": newest(db, set_id)})
    return [
        Conflict(
            item_id=row[0],
            labels=(_label(row[:8]), _label(row[8:])) if row[8] is not None else (_label(row[:8]),),
        )
        for row in rows
    ]


def _label(row: tuple[str, str | None, int, str, float, int, int, str]) -> LabelRow:
    item_id, label, source, author, confidence, created_us, number, snapshot = row
    return LabelRow(
        item_id=item_id,
        label=label,
        source=Source(source),
        author=author,
        confidence=confidence,
        created_at=moment(created_us),
        batch=number,
        snapshot=snapshot,
    )
