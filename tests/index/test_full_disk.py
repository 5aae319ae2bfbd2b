"""A disk that is full: one clear error, and what is served does not change."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index.build import BuildConfig, build
from index.publish import publish, rollback
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered, put_embeddings
from vicinal.errors import CorruptArtifactError, StorageError
from vicinal.store import Store


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Lets no file grow over a size: writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["ivf_flat", "hnsw"])
def test_no_room_for_the_index_leaves_no_snapshot(store: Store, add_embeddings: AddEmbeddings, kind: str) -> None:
    add_embeddings(clustered(2000, 16))
    with file_size_limit(50_000), pytest.raises(StorageError, match=r"index\.faiss"):
        build(store, config=BuildConfig(kind=kind, query_count=10))
    assert store.versions("snapshots") == []
    assert list((store.root / ".staging").iterdir()) == []


def test_no_room_for_the_alias_leaves_the_active_snapshot(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(300, 8))
    for _ in range(2):
        build(store, config=BuildConfig(kind="flat", query_count=10))
    publish(store, "1")
    before = store.active()
    with file_size_limit(20), pytest.raises(StorageError):
        publish(store, "2")
    assert store.active() == before


def test_a_damaged_snapshot_is_neither_published_nor_gone_back_to(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(300, 8))
    for _ in range(3):
        build(store, config=BuildConfig(kind="ivf_flat", query_count=10))
    publish(store, "1")
    publish(store, "2")
    for version in ("1", "3"):
        path = store.path("snapshots", version) / "index.faiss"
        content = bytearray(path.read_bytes())
        content[1000] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"index\.faiss"):
        publish(store, "3")
    with pytest.raises(CorruptArtifactError, match=r"index\.faiss"):
        rollback(store)
    assert (store.active().snapshot, store.active().generation) == ("000002", 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def test_a_full_file_system_refuses_the_build_and_keeps_what_is_served(small_disk: Path) -> None:
    store = Store.create(small_disk / "workspace")
    put_embeddings(store, clustered(400, 16))
    build(store, config=BuildConfig(kind="hnsw", query_count=10))
    publish(store)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(4 << 20))
    for attempt in (
        lambda: build(store, config=BuildConfig(kind="hnsw", query_count=10)),
        lambda: publish(store),
    ):
        with pytest.raises(StorageError, match=r"no space left"):
            attempt()
    assert (store.active().snapshot, store.active().generation) == ("000001", 1)
    ballast.unlink()
    with Snapshot.open(store.path("snapshots", "1")) as snapshot:
        assert snapshot.count == 400
    assert build(store, config=BuildConfig(kind="hnsw", query_count=10)).version == "000002"
