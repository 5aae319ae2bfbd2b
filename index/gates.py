"""The gates of a snapshot: what it must fulfil to be served, and what was measured."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index.curve import CurvePoint
from index.evaluate import evaluate
from index.label_quality import Accuracy, choose_items, compare, measure_accuracy
from index.snapshot import Snapshot
from index.twins import duplicate_recall, twin_recall
from vicinal.errors import InvalidConfigError, NoActiveSnapshotError, NoEncoderError, VicinalError
from vicinal.label_tables import read_label_tables
from vicinal.store import Store

if TYPE_CHECKING:
    from vicinal.types import F64Array

_DEVIATIONS = 2.0
"""Standard errors by which an accuracy must have dropped before chance is no excuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What a snapshot must fulfil to be served; None asks for nothing."""

    recall: float = 0.9
    """Recall of the 10 nearest neighbours at the default effort, on pinned queries, at least, in [0, 1]."""
    p99_ms: float | None = None
    """99th percentile of the latency of one query at the default effort, at most, in milliseconds."""
    size_mib: float | None = None
    """Size of all files, at most, in MiB."""
    max_shrink: float = 0.5
    """Share of the active snapshot's items that may be gone, in [0, 1]."""
    duplicate_recall: float | None = 0.9
    """Share of items with an exact duplicate that find one among their 10 nearest, at least, in [0, 1]."""
    twin_recall: float | None = None
    """Share of slightly changed images that find their own item among their 10 nearest, at least, in [0, 1]."""
    max_label_drop: float | None = 0.02
    """Accuracy on a label set, by neighbours and by 5 labels a class, that may be lost against the active snapshot."""
    knn_accuracy: float | None = None
    """Accuracy of the 10 nearest labelled items on every label set, at least, in [0, 1]."""
    few_shot_accuracy: float | None = None
    """Accuracy of the nearest class mean of 5 labels a class on every label set, at least, in [0, 1]."""
    query_count: int = 300
    """Queries to measure with, at least 10."""

    def __post_init__(self) -> None:
        """Refuses what no snapshot could fulfil or fail."""
        shares = ("recall", "max_shrink", "duplicate_recall", "twin_recall", "max_label_drop", "knn_accuracy")
        for name in (*shares, "few_shot_accuracy"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidConfigError(f"gate {name} is {value}, wanted 0 to 1", field=f"gates.{name}")
        if self.query_count < 10:
            raise InvalidConfigError(f"gate query_count is {self.query_count}, wanted at least 10")


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
    note: str = ""
    """What else there is to say, such as how many items were asked about."""


def check_gates(store: Store, snapshot: Snapshot, gates: Gates) -> tuple[Check, ...]:
    """Measures a snapshot and compares it with the gates.

    Args:
        store: the workspace, for the label sets and for the snapshot that is served now.
        snapshot: the candidate, opened and verified.
        gates: what it must fulfil.

    Raises:
        NoEncoderError: the twin gate is wanted and the snapshot has no encoder.
        CorruptArtifactError: the label log is damaged.
    """
    point = _point(snapshot, gates)
    size_mib = sum(int(entry["bytes"]) for entry in snapshot.manifest.files.values()) / 2**20
    with _served(store) as active:
        shrink = 0.0 if active is None else max(0.0, 1 - snapshot.count / active.count)
        checks = [
            _at_least("recall", point.recall, gates.recall),
            _at_most("p99_ms", point.p99_us / 1e3, gates.p99_ms),
            _at_most("size_mib", size_mib, gates.size_mib),
            _at_most("shrink", shrink, gates.max_shrink),
            _duplicates(snapshot, gates),
            _twins(snapshot, gates),
            *_labels(store, snapshot, active, gates),
        ]
    return tuple(check for check in checks if check is not None)


def _at_most(name: str, value: float, limit: float | None, note: str = "") -> Check | None:
    if limit is None:
        return None
    return Check(name=name, passed=value <= limit, value=round(value, 4), limit=round(limit, 4), note=note)


def _at_least(name: str, value: float, limit: float | None, note: str = "") -> Check | None:
    if limit is None:
        return None
    return Check(name=name, passed=value >= limit, value=round(value, 4), limit=limit, note=note)


def _point(snapshot: Snapshot, gates: Gates) -> CurvePoint:
    curve: tuple[CurvePoint, ...]
    _, curve = evaluate(snapshot, query_count=gates.query_count, seed=1, efforts=(snapshot.default_effort,))
    return curve[0]


@contextlib.contextmanager
def _served(store: Store) -> Iterator[Snapshot | None]:
    """Opens the snapshot that is served; None where there is none, or where it cannot be opened."""
    with contextlib.ExitStack() as stack:
        active = None
        # What cannot be opened is all the more reason to replace it.
        with contextlib.suppress(NoActiveSnapshotError, VicinalError):
            path = store.path("snapshots", store.active().snapshot)
            active = stack.enter_context(Snapshot.open(path, verify=False))
        yield active


def _duplicates(snapshot: Snapshot, gates: Gates) -> Check | None:
    if gates.duplicate_recall is None:
        return None
    share, asked = duplicate_recall(snapshot)
    return _at_least("duplicate_recall", share, gates.duplicate_recall, f"{asked} duplicates") if asked else None


def _twins(snapshot: Snapshot, gates: Gates) -> Check | None:
    if gates.twin_recall is None:
        return None
    if snapshot.encoder_path is None:
        raise NoEncoderError(
            f"{snapshot.name} has no encoder, so changed images cannot be embedded; drop --twin-recall"
        )
    from vicinal.encoder import Encoder  # noqa: PLC0415 - torch takes seconds

    encoder = Encoder.load(snapshot.encoder_path, verify=False)
    corpora = [str(spec) for spec in snapshot.manifest.body["corpora"]]
    share, asked = twin_recall(snapshot, encoder, corpora)
    if not asked:
        return Check(
            name="twin_recall", passed=False, value=0.0, limit=gates.twin_recall, note="no image could be read again"
        )
    return _at_least("twin_recall", share, gates.twin_recall, f"{asked} changed images")


def _labels(store: Store, snapshot: Snapshot, active: Snapshot | None, gates: Gates) -> Iterator[Check | None]:
    if (gates.max_label_drop, gates.knn_accuracy, gates.few_shot_accuracy) == (None, None, None):
        return
    for name, table in read_label_tables(store).items():
        both = [snapshot] if active is None else [snapshot, active]
        labels = choose_items(table, *both)
        if not labels:
            continue
        now = measure_accuracy(snapshot, labels)
        note = f"{len(labels)} items"
        yield _at_least(f"knn_accuracy:{name}", float(now.knn_N.mean()), gates.knn_accuracy, note)
        if len(now.few_shot_N):
            yield _at_least(f"few_shot_accuracy:{name}", float(now.few_shot_N.mean()), gates.few_shot_accuracy, note)
        if active is not None and gates.max_label_drop is not None:
            yield from _drops(name, measure_accuracy(active, labels), now, gates.max_label_drop)


def _drops(name: str, before: Accuracy, now: Accuracy, most: float) -> Iterator[Check | None]:
    pairs: tuple[tuple[str, F64Array, F64Array], ...] = (
        ("knn_drop", before.knn_N, now.knn_N),
        ("few_shot_drop", before.few_shot_N, now.few_shot_N),
    )
    for what, before_N, now_N in pairs:
        if not len(before_N):
            continue
        found = compare(before_N, now_N)
        limit = max(most, _DEVIATIONS * found.deviation)
        note = f"{found.before:.4f} before, {found.now:.4f} now, {len(before_N)} items"
        yield _at_most(f"{what}:{name}", found.before - found.now, limit, note)
