"""Publishes a snapshot: opens it whole, puts it through the gates, and moves the alias by one rename."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from index import kind as kinds
from index.delta_drop import check_changes
from index.gates import Check, Gates, check_gates
from index.snapshot import Snapshot
from vicinal.artifact import storage_guard
from vicinal.errors import GateFailedError, SnapshotNotFoundError
from vicinal.store import Active, Store
from vicinal.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """What was published."""

    active: Active
    """The alias as it is now."""
    checks: tuple[Check, ...]
    """The gates it passed."""
    seconds: float
    """Wall time."""


def publish(
    store: Store,
    version: str = "latest",
    *,
    gates: Gates | None = None,
    progress: Callable[[str], None] | None = None,
) -> PublishReport:
    """Puts a snapshot in service if it passes every gate.

    Args:
        store: the workspace.
        version: the snapshot.
        gates: what it must fulfil. Default: ``Gates()``.
        progress: told what is being done.

    Raises:
        SnapshotNotFoundError: no such snapshot.
        CorruptArtifactError: a file is damaged; it is named, and the active snapshot has not changed.
        GateFailedError: a gate failed; the active snapshot has not changed, a report says why.
        StorageError: the disk is full; the active snapshot has not changed.
    """
    start = time.perf_counter()
    tell = progress or (lambda _: None)
    path = store.path("snapshots", version)
    tell(f"verifying {path.name}")
    with Snapshot.open(path, verify=True) as snapshot:
        tell("measuring")
        checks = check_gates(store, snapshot, gates or Gates())
        _write_report(store, snapshot, checks)
        failed = [check for check in checks if not check.passed]
        if failed:
            listed = "; ".join(_say(check) for check in failed)
            raise GateFailedError(
                f"{snapshot.name} was not published: {listed}; what is served has not changed",
                metadata={check.name: f"{check.value:g}" for check in failed},
            )
        active = activate(store, snapshot)
    return PublishReport(active=active, checks=checks, seconds=time.perf_counter() - start)


def rollback(store: Store) -> Active:
    """Puts the snapshot that was served before in service again, if its files are whole.

    Raises:
        NoActiveSnapshotError: nothing has been published.
        SnapshotNotFoundError: there is no earlier snapshot.
        CorruptArtifactError: a file of it is damaged; what is served has not changed.
    """
    now = store.active()
    known = set(store.versions("snapshots"))
    before = next((name for name in reversed(now.history) if name != now.snapshot and name in known), None)
    if before is None:
        raise SnapshotNotFoundError(f"no snapshot was served before {now.snapshot} that is still there")
    with Snapshot.open(store.path("snapshots", before), verify=True) as snapshot:
        return activate(store, snapshot)


def activate(store: Store, snapshot: Snapshot) -> Active:
    """Moves the alias to a snapshot that is open and was checked, and that of an engine of its own with it.

    Args:
        store: the workspace.
        snapshot: the snapshot.

    Raises:
        FailedPreconditionError: it lacks changes that came through the API and are in no log any more.
        UnavailableError: its engine cannot be told; nothing has changed.
        StorageError: the disk is full; the alias has not changed.
    """
    check_changes(store, snapshot)
    # The engine is told first: where it cannot follow, nothing changes.
    follow = getattr(kinds.load(snapshot.kind), "activate", None)
    if follow is not None:
        follow(snapshot.path)
    return store.activate(snapshot.path.name)


def _say(check: Check) -> str:
    note = f" ({check.note})" if check.note else ""
    return f"{check.name} is {check.value:g}, wanted {check.limit:g}{note}"


def _write_report(store: Store, snapshot: Snapshot, checks: tuple[Check, ...]) -> None:
    report: JsonObject = {
        "snapshot": snapshot.name,
        "fingerprint": snapshot.fingerprint,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
    }
    path = store.root / "reports" / f"publish-{snapshot.path.name}.json"
    with storage_guard(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
