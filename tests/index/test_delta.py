"""Items added and deleted beside a snapshot: acknowledged means on disk, searchable at once, folded by a refresh."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.build import BuildConfig, build
from index.delta import Delta
from index.filters import Condition
from index.live import LiveSnapshot
from index.search import SearchOptions, search
from index.snapshot import Snapshot
from index.unwanted import Grouping
from index.wal import WriteAheadLog
from tests.index.made_vectors import clustered, make_item, put_embeddings
from tests.index.test_full_disk import file_size_limit
from vicinal.errors import (
    CorruptArtifactError,
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidVectorError,
    ItemNotFoundError,
    StorageError,
)
from vicinal.store import Store
from vicinal.types import Metric

COUNT, DIMENSION = 800, 8
X = clustered(COUNT + 100, DIMENSION)


@pytest.fixture(params=["flat", "hnsw"])
def snapshot(request: pytest.FixtureRequest, store: Store) -> Iterator[Snapshot]:
    items = [make_item(number, shop=f"shop-{number % 3}") for number in range(COUNT)]
    put_embeddings(store, X[:COUNT], metric=Metric.L2, items=items)
    report = build(store, config=BuildConfig(kind=request.param, query_count=20))
    with Snapshot.open(store.path("snapshots", report.version)) as opened:
        yield opened


def open_delta(store: Store) -> Delta:
    return Delta(store, fingerprint="f" * 64, dimension=DIMENSION, metric=Metric.L2)


def test_added_replaced_and_deleted_items_are_searched_as_one(store: Store, snapshot: Snapshot) -> None:
    delta = open_delta(store)
    new = [make_item(number, shop="shop-9") for number in range(COUNT, COUNT + 20)]
    assert delta.upsert(new, X[COUNT : COUNT + 20]) == 20
    delta.upsert([make_item(5, shop="shop-9")], X[COUNT + 50 : COUNT + 51])
    delta.delete(["item-000007", "item-000801", "item-unknown"])
    live = LiveSnapshot(snapshot, delta.changes())
    assert live.item_count == COUNT + 20 - 1 - 1
    truth = {f"item-{n:06d}": X[n] for n in range(COUNT + 20) if n not in {7, 801}}
    truth["item-000005"] = X[COUNT + 50]
    ids, y_ND = list(truth), np.stack(list(truth.values()))
    x_QD = X[COUNT + 60 :]
    for options in (SearchOptions(neighbor_count=10, target_recall=1), SearchOptions(neighbor_count=10)):
        found, _ = search(live, x_QD, options)
        assert (found.counts_Q == 10).all()
        scores_QN = -((x_QD[:, None].astype(np.float64) - y_ND[None]) ** 2).sum(axis=2)
        wanted = -np.sort(-scores_QN, axis=1)[:, :10]
        assert (np.abs(found.scores_QK - wanted) < 1e-3).mean() > 0.97
        for row, rows_K in enumerate(found.rows_QK):
            for item_id, score in zip(live.items.item_ids(rows_K), found.scores_QK[row], strict=True):
                assert abs(scores_QN[row, ids.index(item_id)] - score) < 1e-3


def test_filters_groups_and_own_rows_see_added_items(store: Store, snapshot: Snapshot) -> None:
    delta = open_delta(store)
    items = [make_item(number, shop="shop-9", size=number) for number in range(COUNT, COUNT + 5)]
    delta.upsert(items, X[COUNT : COUNT + 5])
    delta.delete(["item-000003"])
    live = LiveSnapshot(snapshot, delta.changes())
    where = Condition(column="shop", operator="in", values=("shop-9",))
    found, _ = search(live, X[:2], SearchOptions(neighbor_count=10, filter=where))
    assert found.counts_Q.tolist() == [5, 5]
    assert live.items.item(int(found.rows_QK[0, 0])).metadata["shop"] == "shop-9"
    where = Condition(column="size", operator="greater", values=(COUNT + 2,))
    assert search(live, X[:1], SearchOptions(filter=where))[0].counts_Q.tolist() == [2]
    where = Condition(column="item_id", operator="in", values=("item-000003", "item-000004"))
    assert search(live, X[:1], SearchOptions(filter=where))[0].counts_Q.tolist() == [1]
    grouped, _ = search(live, X[:1], SearchOptions(neighbor_count=10, grouping=Grouping(column="shop")))
    assert grouped.counts_Q.tolist() == [4]
    row = live.items.row("item-000802")
    assert row >= COUNT
    np.testing.assert_array_equal(live.vectors_of(np.array([row, 1])), X[[802, 1]])
    found, _ = search(live, X[802:803], SearchOptions(neighbor_count=3), exclude_rows=np.array([row]))
    assert row not in found.rows_QK
    everything, _ = search(live, X[:1], SearchOptions(neighbor_count=10**6))
    assert everything.counts_Q.tolist() == [COUNT + 4]
    with pytest.raises(ItemNotFoundError):
        live.items.row("item-000003")


def test_everything_is_there_after_a_restart_and_in_other_processes(store: Store) -> None:
    first, second = open_delta(store), open_delta(store)
    first.upsert([make_item(1, price=1.5, made=make_item(0).added_at)], X[:1])
    second.delete(["item-000009"])
    assert first.catch_up()
    assert not first.catch_up()
    assert set(first.changes()) == set(second.changes()) == set(open_delta(store).changes())
    item = open_delta(store).changes()["item-000001"].item
    assert item is not None
    assert item.metadata == {"price": 1.5, "made": make_item(0).added_at}
    assert set(first.changes(after=1)) == {"item-000009"}


def test_a_repeated_request_has_no_further_effect(store: Store) -> None:
    delta = open_delta(store)
    delta.upsert([make_item(1)], X[:1], request_id="a")
    delta.delete(["item-000001"])
    open_delta(store).upsert([make_item(1)], X[:1], request_id="a")
    assert open_delta(store).changes()["item-000001"].item is None


def test_a_torn_end_is_cut_off_and_damage_before_it_refused(store: Store) -> None:
    delta = open_delta(store)
    for number in range(3):
        delta.upsert([make_item(number)], X[number : number + 1])
    path = next((store.root / "delta").rglob("log.wal"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert set(open_delta(store).changes()) == {"item-000000", "item-000001"}
    assert len(path.read_bytes()) < len(whole) - 5
    damaged = bytearray(whole)
    damaged[20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptArtifactError, match=r"log\.wal is damaged"):
        open_delta(store)


def test_a_full_disk_refuses_and_leaves_the_log_whole(store: Store) -> None:
    delta = open_delta(store)
    delta.upsert([make_item(1)], X[:1])
    path = next((store.root / "delta").rglob("log.wal"))
    size = path.stat().st_size
    with file_size_limit(size + 10), pytest.raises(StorageError):
        delta.upsert([make_item(2)], X[1:2])
    assert path.stat().st_size == size
    assert set(delta.changes()) == {"item-000001"}
    delta.upsert([make_item(3)], X[2:3])
    assert set(open_delta(store).changes()) == {"item-000001", "item-000003"}


def test_wrong_items_are_refused_before_anything_is_written(store: Store) -> None:
    delta = open_delta(store)
    bad_MD = X[:1].copy()
    bad_MD[0, 0] = np.nan
    with pytest.raises(InvalidVectorError):
        delta.upsert([make_item(1)], bad_MD)
    with pytest.raises(DimensionMismatchError):
        delta.upsert([make_item(1)], X[:1, :4])
    with pytest.raises(InvalidArgumentError, match="twice"):
        delta.upsert([make_item(1), make_item(1)], X[:2])
    assert delta.number == 0


def test_a_log_without_repair_leaves_a_torn_end_for_the_writer(tmp_path: Path) -> None:
    log = WriteAheadLog(tmp_path / "log")
    log.append(b"one")
    with (tmp_path / "log").open("ab") as stream:
        stream.write(b"\x05\x00")
    reader = WriteAheadLog(tmp_path / "log")
    assert reader.read_new(repair=False) == [b"one"]
    assert (tmp_path / "log").stat().st_size == 13


WRITER = """
import sys
from pathlib import Path
import numpy as np
from index.delta import Delta
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
