"""Undo and redo of whole batches, as further batches."""

import sqlite3

from serving.labels import reads
from serving.labels.edits import HELD, Held, SetRow, Writer, append_batch, finish
from serving.labels.records import Batch
from vicinal.errors import FailedPreconditionError, LabelSetNotFoundError


def undo(db: sqlite3.Connection, found: SetRow, number: int, *, author: str) -> Batch:
    """Undoes a batch by an inverse one; see ``LabelLog.undo``."""
    state = reads.undo_state(db, found.id)
    number = number or reads.newest_undoable(db, found.id, state)
    _check_target(db, found, number)
    if state.get(number, ("redo", 0))[0] == "undo":
        raise FailedPreconditionError(f"batch {number} of {found.name!r} is already undone; redo it instead")
    return _invert(db, found, state.get(number, ("", number))[1], verb="undo", target=number, author=author)


def redo(db: sqlite3.Connection, found: SetRow, number: int, *, author: str) -> Batch:
    """Does an undone batch again; see ``LabelLog.redo``."""
    state = reads.undo_state(db, found.id)
    undone = {target: by for target, (verb, by) in state.items() if verb == "undo"}
    if not number:
        if not undone:
            raise FailedPreconditionError(f"no batch of {found.name!r} is undone")
        number = max(undone, key=lambda target: undone[target])
    _check_target(db, found, number)
    if number not in undone:
        raise FailedPreconditionError(f"batch {number} of {found.name!r} is not undone")
    return _invert(db, found, undone[number], verb="redo", target=number, author=author)


def _invert(db: sqlite3.Connection, found: SetRow, number: int, *, verb: str, target: int, author: str) -> Batch:
    batch = append_batch(db, found.id, verb=verb, author=author, target=target)
    writer = Writer(db, found.id, batch.number)
    skipped: set[str] = set()
    for root, item_id in db.execute(
        "SELECT root, item_id FROM adds WHERE set_id = ? AND batch = ?", (found.id, number)
    ).fetchall():
        same = [held for held in writer.held(item_id) if held.root == root]
        for held in same:
            writer.drop(held)
            writer.change_count += 1
        if not same:
            skipped.add(item_id)
    dropped = db.execute(
        f"SELECT {HELD} FROM drops x JOIN adds a ON a.id = x.add_id WHERE x.set_id = ? AND x.batch = ?",  # noqa: S608 - constants of ours; values are bound
        (found.id, number),
    ).fetchall()
    for held in (Held(*row) for row in dropped):
        if any(_excludes(other, held, multi_label=found.multi_label) for other in writer.held(held.item_id)):
            skipped.add(held.item_id)
        else:
            writer.add(held, root=held.root)
            writer.change_count += 1
    return finish(db, batch, writer, skipped_count=len(skipped))


def _excludes(other: Held, held: Held, *, multi_label: bool) -> bool:
    return not multi_label or other.label == held.label or other.label is None or held.label is None


def _check_target(db: sqlite3.Connection, found: SetRow, number: int) -> None:
    row = db.execute("SELECT verb FROM batches WHERE set_id = ? AND number = ?", (found.id, number)).fetchone()
    if row is None:
        raise LabelSetNotFoundError(f"{found.name!r} has no batch {number}; list them: vicinal label batches")
    if row[0] in {"undo", "redo"}:
        raise FailedPreconditionError(
            f"batch {number} of {found.name!r} is itself an {row[0]}; name what it {row[0]}es"
        )
