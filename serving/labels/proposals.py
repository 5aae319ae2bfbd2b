"""Proposals: labels that a classifier would put on unlabelled items, to be accepted or rejected.

They are derived, so a new run replaces the old ones; what was rejected is in the log and is not
proposed again. Accepting is one batch of the log, undone as one.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.labels import edits, reads
from serving.labels.log import LabelLog, find
from serving.labels.records import Batch, Entry, Source, check_author
from vicinal.errors import InvalidLabelError, LabelSetNotFoundError


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
    """Cosine to the centred prototype of the class, in [-1, 1]."""
    evidence: tuple[str, ...] = field(default=())
    """Labelled items nearest to it, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Chooses proposals; every condition that is set must hold."""

    label: str = ""
    """Of this class."""
    min_probability: float | None = None
    """With at least this probability."""
    min_score: float | None = None
    """With at least this score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which proposals are meant: exactly one of the two."""

    item_ids: Sequence[str] = ()
    """The proposals of these items."""
    rule: Rule | None = None
    """All that this chooses."""


def replace(log: LabelLog, name: str, proposals: Sequence[Proposal]) -> None:
    """Puts new proposals in the place of the old ones."""
    with log.writing() as db:
        found = find(db, name)
        db.execute("DELETE FROM proposals WHERE set_id = ?", (found.id,))
        db.executemany(
            "INSERT INTO proposals(set_id, item_id, label, probability, score, evidence) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (found.id, one.item_id, one.label, one.probability, one.score, json.dumps(one.evidence))
                for one in proposals
            ),
        )


def listed(
    log: LabelLog, name: str, *, label: str = "", after: tuple[float, str] | None = None, limit: int
) -> list[Proposal]:
    """Returns open proposals, most certain first.

    Args:
        log: the log.
        name: the set.
        label: only this class.
        after: probability and item id of the last one seen.
        limit: this many at most.
    """
    probability, item_id = after or (2.0, "")
    with log.reading() as db:
        rows = db.execute(
            "SELECT item_id, label, probability, score, evidence FROM proposals WHERE set_id = ? "
            "AND (? = '' OR label = ?) AND (-probability, item_id) > (?, ?) "
            "ORDER BY probability DESC, item_id LIMIT ?",
            (find(db, name).id, label, label, -probability, item_id, limit),
        ).fetchall()
    return [_proposal(row) for row in rows]


def accept(
    log: LabelLog, name: str, choice: Choice, *, author: str = "", request_id: str = "", snapshot: str = ""
) -> Batch:
    """Accepts proposals as one batch; items that got a label meanwhile keep it.

    Args:
        log: the log.
        name: the set.
        choice: which proposals.
        author: who accepts.
        request_id: a repetition with the same id has no effect and returns the same batch.
        snapshot: the active one, for the record.

    Raises:
        InvalidLabelError: neither items nor a rule.
        LabelSetNotFoundError: an item has no proposal, or the rule chooses none.
    """
    author = check_author(author)
    with log.writing() as db:
        found = find(db, name)
        before = edits.repeated(db, found.id, request_id)
        if before is not None:
            return before
        chosen = _chosen(db, found.id, choice)
        entries = [
            Entry(
                item_id=one.item_id,
                label=one.label,
                source=Source.PROPAGATED,
                author=author,
                confidence=min(max(one.probability, 0.0), 1.0),
            )
            for one in chosen
        ]
        batch = edits.put(db, found, entries, verb="accept", request_id=request_id, snapshot=snapshot)
        _close(db, found.id, chosen)
        return batch


def reject(log: LabelLog, name: str, choice: Choice, *, author: str = "") -> Batch:
    """Rejects proposals as one batch; they are not proposed again unless the batch is undone.

    Raises:
        InvalidLabelError: neither items nor a rule.
        LabelSetNotFoundError: an item has no proposal.
    """
    with log.writing() as db:
        found = find(db, name)
        chosen = _chosen(db, found.id, choice)
        batch = edits.append_batch(db, found.id, verb="reject", author=check_author(author))
        writer = edits.Writer(db, found.id, batch.number, change_count=len(chosen))
        db.executemany(
            "INSERT INTO rejections(set_id, batch, item_id, label) VALUES (?, ?, ?, ?)",
            ((found.id, batch.number, one.item_id, one.label) for one in chosen),
        )
        _close(db, found.id, chosen)
        return edits.finish(db, batch, writer)


def rejected(log: LabelLog, name: str) -> set[tuple[str, str]]:
    """Returns the items and labels that were rejected and not undone."""
    with log.reading() as db:
        found = find(db, name)
        undone = {target for target, (verb, _) in reads.undo_state(db, found.id).items() if verb == "undo"}
        rows = db.execute("SELECT batch, item_id, label FROM rejections WHERE set_id = ?", (found.id,))
        return {(item_id, label) for batch, item_id, label in rows if batch not in undone}


def _chosen(db: sqlite3.Connection, set_id: int, choice: Choice) -> list[Proposal]:
    item_ids, rule = choice.item_ids, choice.rule
    if bool(item_ids) == (rule is not None):
        raise InvalidLabelError("name the items whose proposals are meant, or give a rule: one of the two")
    columns = "SELECT item_id, label, probability, score, evidence FROM proposals WHERE set_id = ?"
    if rule is not None:
        rows = db.execute(
            f"{columns} AND (? = '' OR label = ?) AND probability >= ? AND score >= ? ORDER BY item_id",
            (
                set_id,
                rule.label,
                rule.label,
                -1.0 if rule.min_probability is None else rule.min_probability,
                -1e30 if rule.min_score is None else rule.min_score,
            ),
        ).fetchall()
        if not rows:
            raise LabelSetNotFoundError("no open proposal meets the rule; list them: vicinal label proposals")
        return [_proposal(row) for row in rows]
    found: list[Proposal] = []
    for item_id in dict.fromkeys(item_ids):
        rows = db.execute(f"{columns} AND item_id = ?", (set_id, item_id)).fetchall()
        if not rows:
            raise LabelSetNotFoundError(
                f"item {item_id[:200]!r} has no open proposal; list them: vicinal label proposals",
                metadata={"item_id": item_id[:200]},
            )
        found += [_proposal(row) for row in rows]
    return found


def _close(db: sqlite3.Connection, set_id: int, chosen: Sequence[Proposal]) -> None:
    db.executemany("DELETE FROM proposals WHERE set_id = ? AND item_id = ?", ((set_id, one.item_id) for one in chosen))


def _proposal(row: tuple[str, str, float, float, str]) -> Proposal:
    item_id, label, probability, score, evidence = row
    return Proposal(
        item_id=item_id, label=label, probability=probability, score=score, evidence=tuple(json.loads(evidence))
    )
