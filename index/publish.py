"""Publishes a snapshot: opens it whole, puts it through the gates, and moves the alias by one rename."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from index.curve import CurvePoint
from index.evaluate import evaluate
from index.snapshot import Snapshot
from vicinal.artifact import storage_guard
from vicinal.errors import GateFailedError, NoActiveSnapshotError, SnapshotNotFoundError, VicinalError
from vicinal.store import Active, Store
from vicinal.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a snapshot must fulfil to be served."""

    recall: float = 0.9
    """Recall of the 10 nearest neighbours at the default effort, at least, in [0, 1]."""
    p99_ms: float | None = None
    """99th percentile of the latency of one query at the default effort, at most, in milliseconds."""
    size_mib: float | None = None
    """Size of all files, at most, in MiB."""
    max_shrink: float = 0.5
    """Share of the active snapshot's items that may be gone, in [0, 1]."""
    query_count: int = 300
    """Queries to measure with, at least 10."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One gate and what was measured."""

    name: str
    """What was checked."""
    passed: bool
    """Whether it holds."""
    value: float
    """What was measured."""
    limit: float
    """What was wanted."""


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
            listed = "; ".join(f"{check.name} is {check.value:g}, wanted {check.limit:g}" for check in failed)
            raise GateFailedError(
                f"{snapshot.name} was not published: {listed}; what is served has not changed",
                metadata={check.name: f"{check.value:g}" for check in failed},
            )
        active = store.activate(path.name)
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
    with Snapshot.open(store.path("snapshots", before), verify=True):
        return store.activate(before)


def check_gates(store: Store, snapshot: Snapshot, gates: Gates) -> tuple[Check, ...]:
    """Measures a snapshot and compares it with the gates.

    Args:
        store: the workspace, for the snapshot that is served now.
        snapshot: the candidate, opened and verified.
        gates: what it must fulfil.
    """
    point = _point(snapshot, gates)
    size_mib = sum(int(entry["bytes"]) for entry in snapshot.manifest.files.values()) / 2**20
    checks = [
        Check(name="recall", passed=point.recall >= gates.recall, value=point.recall, limit=gates.recall),
        _at_most("p99_ms", point.p99_us / 1e3, gates.p99_ms),
        _at_most("size_mib", size_mib, gates.size_mib),
        _at_most("shrink", _shrink(store, snapshot), gates.max_shrink),
    ]
    return tuple(check for check in checks if check is not None)


def _at_most(name: str, value: float, limit: float | None) -> Check | None:
    if limit is None:
        return None
    return Check(name=name, passed=value <= limit, value=round(value, 4), limit=limit)


def _point(snapshot: Snapshot, gates: Gates) -> CurvePoint:
    curve: tuple[CurvePoint, ...]
    _, curve = evaluate(snapshot, query_count=gates.query_count, seed=1, efforts=(snapshot.default_effort,))
    return curve[0]


def _shrink(store: Store, snapshot: Snapshot) -> float:
    """Returns the share of the active snapshot's items that the candidate has fewer; 0 where nothing is active."""
    try:
        active = store.active()
        with Snapshot.open(store.path("snapshots", active.snapshot), verify=False) as before:
            return max(0.0, 1 - snapshot.count / before.count)
    except NoActiveSnapshotError:
        return 0.0
    except VicinalError:
        # What is served now cannot be opened: all the more reason to replace it.
        return 0.0


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
