"""UpsertItems and DeleteItems over several servers, snapshots and swaps: nothing is missed, nothing goes back."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from index.delta import Delta
from tests.serving.conftest import DIMENSION, add_snapshot, config, make_vectors, running
from tests.serving.writes.conftest import FAR
from vicinal.client import Client, ItemUpsert
from vicinal.errors import (
    FingerprintMismatchError,
    ItemNotFoundError,
)
from vicinal.store import Store
from vicinal.types import Metric


@contextlib.contextmanager
def swapping(store: Store, *, pause_s: float) -> Iterator[None]:
    """Has two snapshots take turns."""
    stop = threading.Event()

    def swap() -> None:
        for number in range(1000):
            if stop.is_set():
                return
            store.activate(str(1 + number % 2))
            time.sleep(pause_s)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        stop.set()
        swapper.join()


def test_changes_lie_over_every_snapshot_of_the_space(client: Client) -> None:
    client.upsert_items([ItemUpsert(item_id="new", value=FAR)])
    client.delete_items(["item-00001"])
    for name in ("snapshots/000002", "snapshots/000001"):
        pinned = client.search(FAR, neighbor_count=1, snapshot=name)
        assert (pinned.item_ids, pinned.snapshot.name, pinned.snapshot.delta_number) == (["new"], name, 2)
    for number, name in enumerate(("snapshots/000002", "snapshots/000001")):
        client.activate_snapshot(name)
        assert client.search(FAR, neighbor_count=1).item_ids == ["new"]
        with pytest.raises(ItemNotFoundError):
            client.get_item("item-00001")
        client.upsert_items([ItemUpsert(item_id=name, value=-FAR - number)])
        for other in ("snapshots/000002", "snapshots/000001"):
            assert client.search(-FAR - number, neighbor_count=1, snapshot=other).item_ids == [name]


def test_a_server_that_starts_and_one_that_runs_see_what_another_wrote(served: Store, client: Client) -> None:
    with running(served, config()) as (_, address), Client(address) as other:
        client.upsert_items([ItemUpsert(item_id="new", value=FAR)])
        deadline = time.monotonic() + 1
        while other.search(FAR, neighbor_count=1).item_ids != ["new"]:
            assert time.monotonic() < deadline, "not searchable within a second"
        other.delete_items(["new"])
        deadline = time.monotonic() + 1
        while client.search(FAR, neighbor_count=1).item_ids == ["new"]:
            assert time.monotonic() < deadline
    client.upsert_items([ItemUpsert(item_id="new", value=FAR)])
    with running(served, config()) as (_, address), Client(address) as third:
        assert third.search(FAR, neighbor_count=1).item_ids == ["new"]


def test_a_pinned_snapshot_of_another_space_shows_what_others_wrote_to_it(store: Store) -> None:
    for seed in (1, 2):
        add_snapshot(store, make_vectors(50, seed=seed))
    store.activate("2")
    with (
        running(store, config(), fixed="snapshots/000001") as (_, one),
        running(store, config()) as (_, two),
        Client(one) as first,
        Client(two) as second,
    ):
        assert second.search(FAR, neighbor_count=1, snapshot="snapshots/000001").snapshot.delta_number == 0
        first.upsert_items([ItemUpsert(item_id="new", value=FAR)])
        assert second.search(FAR, neighbor_count=1, snapshot="snapshots/000001").item_ids == ["new"]
        assert second.search(FAR, neighbor_count=1).item_ids != ["new"]


def test_many_writers_lose_nothing_and_see_their_own_writes(served: Store) -> None:
    problems: list[str] = []

    def write(address: str, seed: int) -> None:
        with Client(address) as client:
            last = 0
            for n in range(15):
                x_D = FAR + seed * 100 + n
                done = client.upsert_items([ItemUpsert(item_id=f"{seed}-{n}", value=x_D)])
                found = client.search(x_D, neighbor_count=1)
                if (
                    found.item_ids != [f"{seed}-{n}"]
                    or not last < done.snapshot.delta_number <= found.snapshot.delta_number
                ):
                    problems.append(f"{seed}-{n}: {found}")
                last = done.snapshot.delta_number

    with running(served, config()) as (_, one), running(served, config()) as (_, two):
        threads = [threading.Thread(target=write, args=(address, seed)) for seed, address in enumerate([one, two] * 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
    changes = Delta(served, fingerprint="ab" * 32, dimension=DIMENSION, metric=Metric.L2).changes()
    assert len(changes) == 8 * 15


def test_what_is_acknowledged_is_in_the_space_that_the_reply_names(store: Store) -> None:
    for seed in (1, 2):
        add_snapshot(store, make_vectors(50, seed=seed))
    store.activate("1")
    acknowledged: dict[str, str] = {}
    with running(store, config()) as (_, address), Client(address) as client:
        with swapping(store, pause_s=0.01):
            for number in range(150):
                with contextlib.suppress(FingerprintMismatchError):
                    done = client.upsert_items([ItemUpsert(item_id=f"n{number}", value=FAR)])
                    acknowledged[f"n{number}"] = done.snapshot.name
        for item_id, name in acknowledged.items():
            assert client.get_item(item_id, snapshot=name).item.item_id == item_id
    assert set(acknowledged.values()) == {"snapshots/000001", "snapshots/000002"}


def test_no_write_is_missed_while_snapshots_are_swapped(served: Store) -> None:
    problems: list[str] = []
    with running(served, config()) as (_, address), Client(address) as client, swapping(served, pause_s=0.03):
        last, names = (0, 0), set()
        for number in range(60):
            x_D = FAR + number
            client.upsert_items([ItemUpsert(item_id=f"n{number}", value=x_D)])
            reply = client.search(x_D, neighbor_count=1)
            seen = (reply.snapshot.generation, reply.snapshot.delta_number)
            names.add(reply.snapshot.name)
            if reply.item_ids != [f"n{number}"] or seen[0] < last[0] or seen[1] <= last[1]:
                problems.append(f"{number}: {reply} after {last}")
            last = seen
    assert not problems
    assert len(names) == 2
