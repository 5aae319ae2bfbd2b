"""kill -9 at any moment of build, publish and gc: the active snapshot always opens and verifies."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from index.build import BuildConfig, build
from index.collect import collect
from index.publish import publish
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.store import Store

KILLS = int(os.environ.get("VICINAL_KILLS", "6"))
CHURN = Path(__file__).with_name("churn.py")


@pytest.mark.slow
@pytest.mark.timeout(240 + 20 * KILLS)
def test_killed_anywhere_the_active_snapshot_opens_and_verifies(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(1500, 16))
    first = build(store, config=BuildConfig(kind="flat", query_count=10))
    publish(store, first.version)
    chance = random.Random(1)
    generation = store.active().generation
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, str(CHURN), str(store.root)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 1.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
        active = store.active()
        assert active.generation >= generation
        generation = active.generation
        with Snapshot.open(store.path("snapshots", active.snapshot), verify=True) as snapshot:
            assert snapshot.search(snapshot.vectors_ND[:1], neighbor_count=1).rows_QK.tolist() == [[0]]
    for version in store.versions("snapshots"):
        Snapshot.open(store.path("snapshots", version), verify=True).close()
    collect(store, keep=1)
    assert len(store.versions("snapshots")) <= 2
    assert list((store.root / ".staging").iterdir()) == []


def test_embeddings_go_with_the_last_snapshot_that_used_them(store: Store, add_embeddings: AddEmbeddings) -> None:
    for seed in range(4):
        version = add_embeddings(clustered(100, 8, seed=seed))
        build(store, embeddings=version, config=BuildConfig(kind="flat", query_count=10))
    publish(store, "1")
    with Snapshot.open(store.path("snapshots", "2")):
        removed = collect(store, keep=1)
    assert removed == ["snapshots/000003", "embeddings/000003"]
    assert store.versions("snapshots") == ["000001", "000002", "000004"]
    assert collect(store, keep=1, pinned=frozenset({"000002"})) == []
    assert collect(store, keep=1) == ["snapshots/000002", "embeddings/000002"]


def test_embeddings_without_a_snapshot_are_kept(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(60, 8))
    add_embeddings(clustered(70, 8))
    assert collect(store, keep=1) == []
    build(store, embeddings="1", config=BuildConfig(kind="flat", query_count=10))
    (store.path("snapshots", "1") / "manifest.json").write_text("{}")
    add_embeddings(clustered(80, 8))
    assert collect(store, keep=1) == []
