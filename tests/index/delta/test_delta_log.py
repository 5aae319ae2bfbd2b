"""The log under the changes of items: torn ends, full disks, writes taken back, what is dropped, kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from index.delta import Delta
from index.delta_drop import check_changes, drop_folded
from index.snapshot import Snapshot
from index.wal import WriteAheadLog, segments
from tests.index.delta.conftest import COUNT, DIMENSION, X, open_delta
from tests.index.made_vectors import make_item
from tests.index.test_full_disk import file_size_limit
from vicinal.errors import (
    CorruptArtifactError,
    FailedPreconditionError,
    StorageError,
)
from vicinal.store import Store
from vicinal.types import Metric


def test_a_torn_end_is_cut_off_and_damage_before_it_refused(store: Store) -> None:
    delta = open_delta(store)
    for number in range(3):
        delta.upsert([make_item(number)], X[number : number + 1])
    path = next((store.root / "delta").rglob("*.wal"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert set(open_delta(store).changes()) == {"item-000000", "item-000001"}
    open_delta(store).delete(["item-000009"])
    assert set(open_delta(store).changes()) == {"item-000000", "item-000001", "item-000009"}
    damaged = bytearray(whole)
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptArtifactError, match=r"\.wal is damaged"):
        open_delta(store)


def test_a_full_disk_refuses_and_leaves_the_log_whole(store: Store) -> None:
    delta = open_delta(store)
    delta.upsert([make_item(1)], X[:1])
    path = next((store.root / "delta").rglob("*.wal"))
    size = path.stat().st_size
    with file_size_limit(size + 10), pytest.raises(StorageError):
        delta.upsert([make_item(2)], X[1:2])
    assert path.stat().st_size == size
    assert set(delta.changes()) == {"item-000001"}
    delta.upsert([make_item(3)], X[2:3])
    assert set(open_delta(store).changes()) == {"item-000001", "item-000003"}


def test_a_log_without_repair_leaves_a_torn_end_for_the_writer(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path)
    log.append([b"one", b"two"], number=1)
    path = tmp_path / segments(tmp_path)[0]
    with path.open("ab") as stream:
        stream.write(b"\x05\x00")
    size = path.stat().st_size
    assert WriteAheadLog(tmp_path).read_new(repair=False) == [b"one", b"two"]
    assert path.stat().st_size == size
    assert WriteAheadLog(tmp_path).read_new(repair=True) == [b"one", b"two"]
    assert path.stat().st_size == size - 2


def test_what_every_snapshot_holds_is_dropped_and_its_ids_kept(store: Store, snapshot: Snapshot) -> None:
    delta = Delta(store, fingerprint=snapshot.fingerprint, dimension=DIMENSION, metric=Metric.L2)
    delta.upsert([make_item(COUNT)], X[:1], request_id="a")
    assert drop_folded(store) == []
    manifest = snapshot.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"delta_number": 0', '"delta_number": 1'))
    reader = Delta(store, fingerprint=snapshot.fingerprint, dimension=DIMENSION, metric=Metric.L2)
    delta.delete(["item-000003"])
    assert len(drop_folded(store)) == 0  # one segment holds both
    manifest.write_text(manifest.read_text().replace('"delta_number": 1', '"delta_number": 2'))
    assert len(drop_folded(store)) == 1
    assert drop_folded(store) == []
    assert reader.catch_up()
    reader.upsert([make_item(5)], X[:1])
    assert delta.catch_up()
    assert set(delta.changes(after=2)) == set(reader.changes(after=2)) == {"item-000005"}
    assert delta.settled() == {"item-000800", "item-000003", "item-000005"}
    assert delta.deleted() == {"item-000003"}
    assert delta.upsert([make_item(COUNT)], X[:1], request_id="a") == 1
    assert delta.number == 3, "the request is known although its record is dropped"
    with pytest.raises(FailedPreconditionError, match="were dropped"):
        Delta(store, fingerprint=snapshot.fingerprint, dimension=DIMENSION, metric=Metric.L2, after=1)
    with pytest.raises(FailedPreconditionError, match="changes 1 to 2"):
        check_changes(store, snapshot)  # which still says that it holds none


def test_a_write_that_was_taken_back_is_noticed_by_who_read_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    delta, reader = open_delta(store), open_delta(store)
    delta.upsert([make_item(1)], X[:1])
    flush = os.fsync

    def fail(descriptor: int) -> None:
        reader.catch_up()
        monkeypatch.setattr(os, "fsync", flush)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError):
        delta.upsert([make_item(2)], X[:1])
    assert set(reader.changes()) == {"item-000001", "item-000002"}
    delta.upsert([make_item(3)], X[:1])
    assert reader.catch_up()
    assert set(reader.changes()) == {"item-000001", "item-000003"} == set(open_delta(store).changes())


WRITER = """
import sys
from pathlib import Path
import numpy as np
from index.delta import Delta
from index.delta_drop import check_changes, drop_folded
from index.delta_writes import Write
from tests.index.made_vectors import make_item
from vicinal.store import Store
from vicinal.types import Metric
delta = Delta(Store(Path(sys.argv[1])), fingerprint="f" * 64, dimension=8, metric=Metric.L2)
for number in range(100000):
    delta.upsert([make_item(number)], np.full((1, 8), number, np.float32))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
def test_killed_anywhere_every_acknowledged_write_is_there(store: Store) -> None:
    root = Path(__file__).parents[2]
    for acknowledged in (3, 40):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            for _ in range(acknowledged):
                last = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            last = max([last, *[int(line) for line in process.stdout.read().splitlines() if line]])
            process.wait()
        changes = open_delta(store).changes()
        for number in range(last + 1):
            vector_D = changes[f"item-{number:06d}"].vector_D
            assert vector_D is not None
            assert (vector_D == number).all()
