"""What `vicinal gc` removes beside old snapshots: jobs nobody goes on with, and bridges that lead nowhere."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from index import commands
from index.bridge import Bridge, BridgeQuality, Space, save_bridge
from index.build import BuildConfig, build
from index.collect import collect
from index.embed_launch import Rank, hold_rank
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.store import Store
from vicinal.types import Metric


def make_job(store: Store, name: str, *, days: float) -> Path:
    path = store.root / "work" / f"embed-{name}"
    (path / "shards-0").mkdir(parents=True)
    for entry in (path / "rank-0.lock", path / "shards-0" / "000000.shard"):
        entry.write_bytes(b"")
    then = time.time() - days * 86_400
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then))
    return path


def test_an_abandoned_job_is_removed_and_one_that_runs_or_is_young_is_not(store: Store) -> None:
    old, young, running = (make_job(store, name, days=days) for name, days in (("a", 8), ("b", 6), ("c", 30)))
    (store.root / "work" / "trash-1").mkdir()
    with hold_rank(running, Rank()):
        assert collect(store, keep=1) == ["work/embed-a"]
        assert (old.exists(), young.exists(), running.exists()) == (False, True, True)
    assert not list((store.root / "work").glob("trash-*"))


def test_the_days_are_an_option(store: Store) -> None:
    make_job(store, "a", days=2)
    result = CliRunner().invoke(commands.gc, ["-w", str(store.root), "--json", "--work-days", "1"])
    assert json.loads(result.stdout) == {"removed": ["work/embed-a"]}


def put_bridge(store: Store, begin: str, end: str) -> str:
    spaces = [Space(fingerprint=name, dimension=3, metric=Metric.L2) for name in (begin, end)]
    bridge = Bridge(
        source=spaces[0],
        target=spaces[1],
        map_DE=np.eye(3, dtype=np.float32),
        source_mean_D=np.zeros(3, np.float32),
        target_mean_E=np.zeros(3, np.float32),
        scale=1.0,
        back_scale=1.0,
    )
    quality = BridgeQuality(held_out_count=1, own_item=1.0, overlap=1.0, shuffled=0.0)
    return save_bridge(store, bridge, quality, pair_count=50)


@pytest.mark.parametrize("side", ["source", "target"])
def test_bridges_that_end_at_no_snapshot_are_removed(store: Store, add_embeddings: AddEmbeddings, side: str) -> None:
    add_embeddings(clustered(50, 4))
    build(store, config=BuildConfig(query_count=10))
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        here = snapshot.fingerprint
    ends = (here, "0" * 64) if side == "source" else ("0" * 64, here)
    put_bridge(store, *ends)
    put_bridge(store, *reversed(ends))
    put_bridge(store, "1" * 64, "2" * 64)
    assert collect(store, keep=1) == ["bridges/000003", "bridges/000001"]
    assert store.versions("bridges") == ["000002"]
