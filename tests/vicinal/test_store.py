"""The workspace: versions are whole or absent, the alias moves by rename, a crash loses nothing."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from vicinal.artifact import MANIFEST, write_manifest
from vicinal.errors import (
    ArtifactNotFoundError,
    BusyError,
    CorruptArtifactError,
    InvalidArgumentError,
    NoActiveSnapshotError,
    SnapshotNotFoundError,
    StorageError,
)
from vicinal.store import Store


def add_snapshot(store: Store, payload: bytes = b"data") -> str:
    with store.stage("snapshots") as staging:
        (staging.path / "data.bin").write_bytes(payload)
        write_manifest(staging.path, kind="snapshot", version=1, body={})
        return staging.commit()


def test_create_is_idempotent_and_open_refuses_what_is_not_a_workspace(tmp_path):
    store = Store.create(tmp_path / "w")
    assert Store.create(tmp_path / "w").root == store.root
    with pytest.raises(ArtifactNotFoundError, match="not a Vicinal workspace"):
        Store(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    with pytest.raises(InvalidArgumentError, match="not a Vicinal workspace"):
        Store.create(tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["precious.txt"]


def test_open_refuses_an_unknown_or_damaged_workspace(tmp_path):
    store = Store.create(tmp_path / "w")
    (store.root / "workspace.json").write_text('{"format_version": 99}')
    with pytest.raises(CorruptArtifactError, match="format_version 99"):
        Store(store.root)
    (store.root / "workspace.json").write_text("{")
    with pytest.raises(CorruptArtifactError, match="damaged"):
        Store(store.root)


def test_versions_grow_and_are_never_given_twice(tmp_path):
    store = Store.create(tmp_path / "w")
    assert [add_snapshot(store) for _ in range(3)] == ["000001", "000002", "000003"]
    store.activate("1")
    assert store.collect(keep=1) == ["snapshots/000002"]
    assert add_snapshot(store) == "000004"
    assert store.versions("snapshots") == ["000001", "000003", "000004"]


def test_path_takes_every_way_to_name_a_version(tmp_path):
    store = Store.create(tmp_path / "w")
    add_snapshot(store)
    version = add_snapshot(store)
    for name in (version, "2", "snapshots/000002", "latest"):
        assert store.path("snapshots", name).name == version
    for name in ("3", "../snapshots/000001", "", "latest/..", "9" * 400, "²"):
        with pytest.raises(SnapshotNotFoundError, match="there are 000001 to 000002"):
            store.path("snapshots", name)
    with pytest.raises(ArtifactNotFoundError, match="there are none yet"):
        store.path("encoders", "latest")


def test_what_is_not_committed_is_removed(tmp_path):
    store = Store.create(tmp_path / "w")
    with store.stage("snapshots") as staging:
        (staging.path / "half").write_bytes(b"x")
    assert store.versions("snapshots") == []
    assert list((store.root / ".staging").iterdir()) == []


def test_alias_counts_generations_and_rolls_back(tmp_path):
    store = Store.create(tmp_path / "w")
    with pytest.raises(NoActiveSnapshotError, match="vicinal publish"):
        store.active()
    first, second = add_snapshot(store), add_snapshot(store)
    assert store.activate(first).generation == 1
    assert store.activate(second).generation == 2
    back = store.rollback()
    assert (back.snapshot, back.generation) == (first, 3)
    assert Store(store.root).active() == back
    with pytest.raises(SnapshotNotFoundError):
        store.activate("77")
    assert store.active() == back


def test_rollback_says_when_there_is_nothing_to_go_back_to(tmp_path):
    store = Store.create(tmp_path / "w")
    store.activate(add_snapshot(store))
    with pytest.raises(SnapshotNotFoundError, match="no snapshot was served before"):
        store.rollback()


def test_damaged_alias_is_named(tmp_path):
    store = Store.create(tmp_path / "w")
    (store.root / "active.json").write_text('{"snapshot": "000001"}')
    with pytest.raises(CorruptArtifactError, match=r"active\.json is damaged"):
        store.active()


def test_collect_spares_active_pinned_open_and_newest(tmp_path):
    store = Store.create(tmp_path / "w")
    versions = [add_snapshot(store) for _ in range(6)]
    store.activate(versions[0])
    with store.hold("snapshots", versions[1]):
        removed = store.collect(keep=2, pinned=frozenset({versions[2]}))
    assert removed == [f"snapshots/{versions[3]}"]
    assert store.collect(keep=2) == [f"snapshots/{versions[1]}", f"snapshots/{versions[2]}"]


def test_collect_takes_what_a_dead_writer_left_and_spares_a_live_one(tmp_path):
    store = Store.create(tmp_path / "w")
    dead = store.root / ".staging" / "dead"
    dead.mkdir()
    (dead / "half").write_bytes(b"x")
    with store.stage("snapshots") as staging:
        store.collect(keep=1)
        assert staging.path.is_dir()
        assert not dead.exists()


def test_writers_lock_is_exclusive(tmp_path):
    store = Store.create(tmp_path / "w")
    with store.lock(), pytest.raises(BusyError, match="another process"), store.lock(wait=False):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_while_the_alias_is_written_leaves_the_old_alias(tmp_path, monkeypatch, code):
    store = Store.create(tmp_path / "w")
    first, second = add_snapshot(store), add_snapshot(store)
    before = store.activate(first)

    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        store.activate(second)
    monkeypatch.undo()
    assert store.active() == before
    assert not list(store.root.glob(".active*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_commit_to_a_disk_that_is_really_full_keeps_the_workspace_as_it_was(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        store = Store.create(mount / "w")
        first = add_snapshot(store)
        before = store.activate(first)
        with pytest.raises(StorageError, match="no space left"):
            add_snapshot(store, payload=bytes(1 << 20))
        assert store.active() == before
        assert store.versions("snapshots") == [first]
        assert add_snapshot(store) == "000002"
    finally:
        subprocess.run(["umount", mount], check=True)


def _write_for_ever(root: str) -> None:
    store = Store(Path(root))
    while True:
        store.activate(add_snapshot(store, payload=os.urandom(1000)))
        store.collect(keep=2)


@pytest.mark.slow
def test_killed_at_random_moments_the_alias_always_opens(tmp_path):
    store = Store.create(tmp_path / "w")
    store.activate(add_snapshot(store))
    context = multiprocessing.get_context("spawn")
    for trial in range(8):
        process = context.Process(target=_write_for_ever, args=(str(store.root),))
        process.start()
        seen = store.active().generation
        deadline = time.monotonic() + 20
        while store.active().generation < seen + 2 + trial % 3 and time.monotonic() < deadline:
            time.sleep(0.001 * trial)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        active = store.active()
        assert active.generation > seen
        manifest = json.loads((store.path("snapshots", active.snapshot) / MANIFEST).read_text())
        assert manifest["files"]["data.bin"]["bytes"] in {4, 1000}
    store.collect(keep=1)
    assert list((store.root / ".staging").glob("*")) == []
