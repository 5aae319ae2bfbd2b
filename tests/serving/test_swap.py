"""Hot swap: under load no request fails, and each reply is what the snapshot that it names gives alone."""

import asyncio
import threading
import time
from collections import Counter

import numpy as np
import pytest

from index.snapshot import Snapshot
from serving.generations import Generations
from tests.serving.conftest import add_snapshot, config, make_items, make_vectors, running
from vicinal.client import Client
from vicinal.errors import CorruptArtifactError, VicinalError
from vicinal.store import Store

SNAPSHOTS = 4
SWAPS = 30


@pytest.fixture
def several(store: Store) -> Store:
    for number in range(SNAPSHOTS):
        add_snapshot(store, make_vectors(200, seed=number), items=make_items(200, prefix=f"s{number}"))
    store.activate("1")
    return store


def test_under_load_every_reply_equals_what_its_snapshot_gives_alone(several: Store) -> None:
    x_QD = make_vectors(20, seed=99)
    alone = {}
    for number in range(SNAPSHOTS):
        with Snapshot.open(several.path("snapshots", str(number + 1))) as snapshot:
            found = snapshot.search(x_QD, neighbor_count=5)
            alone[snapshot.name] = [snapshot.items.item_ids(rows) for rows in found.rows_QK]
    stop = threading.Event()
    replies: list[tuple[str, int, int, list[str]]] = []
    errors: list[Exception] = []

    def ask(address: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        last = 0
        try:
            with Client(address) as client:
                while not stop.is_set():
                    query = int(rng.integers(len(x_QD)))
                    reply = client.search(x_QD[query], neighbor_count=5)
                    assert reply.snapshot.generation >= last, "an older snapshot after a newer one"
                    last = reply.snapshot.generation
                    replies.append((reply.snapshot.name, last, query, reply.item_ids))
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    with running(several, config()) as (_, address):
        threads = [threading.Thread(target=ask, args=(address, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for swap in range(SWAPS):
            several.activate(str(1 + (swap + 1) % SNAPSHOTS))
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(replies) > 100
    wrong = [reply for reply in replies if reply[3] != alone[reply[0]][reply[2]]]
    assert not wrong
    assert len(Counter(reply[0] for reply in replies)) == SNAPSHOTS


def test_a_damaged_snapshot_leaves_the_old_one_serving_and_the_next_good_one_is_taken(several: Store) -> None:
    (several.root / "snapshots" / "000002" / "vectors.npy").unlink()
    with running(several, config()) as (server, address), Client(address) as client:
        several.activate("2")
        deadline = time.monotonic() + 10
        while server.generations.last_error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(server.generations.last_error, CorruptArtifactError)
        assert client.search("s0-00001").snapshot.name == "snapshots/000001"
        several.activate("3")
        while client.get_active_snapshot().name != "snapshots/000003" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.search("s2-00001").snapshot.name == "snapshots/000003"
        assert server.generations.last_error is None


def test_reactivating_the_same_snapshot_only_raises_the_generation(several: Store) -> None:
    async def run() -> None:
        generations = Generations(several)
        before = await generations.follow()
        several.activate("1")
        after = await generations.follow()
        assert before is not None
        assert after is not None
        assert after.snapshot is before.snapshot
        assert (before.ref.generation, after.ref.generation) == (1, 2)
        assert await generations.take("snapshots/000001") is after
        generations.close()

    asyncio.run(run())


def test_few_pinned_generations_are_kept_and_collection_spares_the_open_ones(several: Store) -> None:
    async def run() -> None:
        generations = Generations(several, pinned_count=1)
        await generations.follow()
        held = await generations.take("snapshots/000002")
        assert several.collect(keep=1) == ["snapshots/000003"]
        await generations.take("snapshots/000004")
        del held
        import gc

        gc.collect()
        assert several.collect(keep=1) == ["snapshots/000002"]
        generations.close()

    asyncio.run(run())


def test_an_error_while_opening_that_is_not_ours_is_internal_and_kept(
    several: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    async def run() -> None:
        generations = Generations(several)
        monkeypatch.setattr("serving.generations.open_generation", fail)
        with pytest.raises(RuntimeError):
            await generations.follow()
        with pytest.raises(VicinalError, match="failed to open"):
            generations.current()
        generations.close()

    asyncio.run(run())
