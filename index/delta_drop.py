"""Drops from the logs of changes what every snapshot holds.

A change may be dropped when no snapshot that is still in the workspace lacks it: whichever of them
is activated, also by a rollback, finds all later changes. So a log shrinks when `vicinal gc`
removes the snapshots from before a refresh. What is kept of a dropped record are its ids, because
the corpora have no say in items that the API changed, and the ids of the last requests.
"""

import contextlib
from pathlib import Path

from index.delta import DELTA, LOCK, REMEMBERED_REQUESTS
from index.delta_records import Dropped, Record, check_held, decode, read_dropped, write_dropped
from index.live import folded_number
from index.snapshot import Snapshot
from index.wal import WriteAheadLog, drop_segments
from vicinal.artifact import read_manifest
from vicinal.errors import BusyError, VicinalError
from vicinal.locks import locked
from vicinal.store import Store


def drop_folded(store: Store) -> list[str]:
    """Drops the changes that every snapshot of their space holds.

    Args:
        store: the workspace.

    Returns:
        What was dropped, such as ``delta/0a1b.../000000000001.wal``.

    Raises:
        CorruptArtifactError: a log is damaged.
        StorageError: the disk failed; no change is lost.
    """
    removed: list[str] = []
    for directory in sorted(path for path in (store.root / DELTA).glob("*") if path.is_dir()):
        with contextlib.suppress(BusyError), locked(directory / LOCK, shared=False, wait=False):
            up_to = _held_by_all(store, directory.name)
            removed += [f"{DELTA}/{directory.name}/{name}" for name in _drop(directory, up_to)]
    return removed


def check_changes(store: Store, snapshot: Snapshot) -> None:
    """Refuses a snapshot that lacks changes which are in no log any more, before it is served.

    Raises:
        FailedPreconditionError: it lacks some.
        CorruptArtifactError: what is kept of them is damaged.
    """
    check_held(read_dropped(store.root / DELTA / snapshot.fingerprint[:32]), folded_number(snapshot))


def _held_by_all(store: Store, fingerprint: str) -> int:
    """Returns the number of the last change that every snapshot of a space holds; 0 where one does not say."""
    numbers = []
    for version in store.versions("snapshots"):
        try:
            body = read_manifest(store.path("snapshots", version), kind="snapshot", version=1, verify=False).body
            if str(body["fingerprint"]).startswith(fingerprint):
                numbers.append(int(body.get("delta_number", 0)))
        except (VicinalError, KeyError, ValueError):
            return 0
    return min(numbers, default=0)


def _drop(directory: Path, up_to: int) -> list[str]:
    before = read_dropped(directory)
    if up_to <= before.number:
        return []
    log = WriteAheadLog(directory)
    records = [decode(body) for body in log.read_new(repair=True)]
    if records and records[-1].number <= up_to:
        log.begin_segment(records[-1].number + 1)
    gone = [record for record in records if before.number < record.number <= up_to]
    if gone:
        write_dropped(directory, _with(before, gone))
    return drop_segments(directory, up_to=up_to)


def _with(before: Dropped, gone: list[Record]) -> Dropped:
    requests = {**before.requests, **{record.request_id: record.count for record in gone if record.request_id}}
    there = dict.fromkeys(before.item_ids, True) | dict.fromkeys(before.deleted_ids, False)
    for record in gone:
        there |= dict.fromkeys(record.item_ids, not record.is_delete)
    return Dropped(
        number=gone[-1].number,
        ordinal=gone[-1].ordinal + len(gone[-1].described),
        item_ids=tuple(there),
        deleted_ids=tuple(item_id for item_id, is_there in there.items() if not is_there),
        requests=dict(list(requests.items())[-REMEMBERED_REQUESTS:]),
    )
