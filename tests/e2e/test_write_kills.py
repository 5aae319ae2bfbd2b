"""Servers killed while items are written: whatever was acknowledged is there afterwards, and nothing half."""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.test_serve_process import serving
from tests.e2e.test_serve_workers import children
from tests.serving.conftest import DIMENSION, add_snapshot, make_vectors
from vicinal.client import Client, ItemUpsert, RetryPolicy
from vicinal.errors import ItemNotFoundError, VicinalError
from vicinal.store import Store
from vicinal.types import F32Array

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
ROUNDS = 5
GROUP = 3


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "workspace")
    for count in (100, 120):
        add_snapshot(store, make_vectors(count, seed=count), fingerprint="cd" * 32)
    store.activate("1")
    return store.root


def vector(seed: int, number: int) -> F32Array:
    return np.random.default_rng([seed, number]).standard_normal(DIMENSION).astype(np.float32) + 50


class Writing:
    """Clients that write groups of items and delete some, and remember what was acknowledged and what only asked."""

    def __init__(self, address: str, first_seed: int) -> None:
        self.stop = threading.Event()
        self.there: dict[str, F32Array] = {}
        self.gone: set[str] = set()
        self.unsure: set[str] = set()
        self.groups: list[list[str]] = []
        self.late: list[str] = []
        self.threads = [threading.Thread(target=self._write, args=(address, first_seed + n)) for n in range(4)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _write(self, address: str, seed: int) -> None:
        patient = RetryPolicy(attempt_count=6, max_s=0.3)
        with Client(address, retry=patient, timeout_s=5) as client, contextlib.suppress(VicinalError):
            for number in range(10_000):
                names = [f"{seed}-{number}-{place}" for place in range(GROUP)]
                x_MD = [vector(seed, number * GROUP + place) for place in range(GROUP)]
                if self.stop.is_set():
                    return
                self.groups.append(names)
                self.unsure.update(names)
                client.upsert_items([ItemUpsert(item_id=n, value=x) for n, x in zip(names, x_MD, strict=True)])
                self.there.update(zip(names, x_MD, strict=True))
                self.unsure.difference_update(names)
                if client.search(x_MD[0], neighbor_count=1).item_ids != names[:1]:
                    self.late.append(names[0])
                if number % 4 == 3:
                    self.unsure.add(names[0])
                    client.delete_items(names[:1])
                    self.gone.add(names[0])
                    self.there.pop(names[0])
                    self.unsure.discard(names[0])


def everything(client: Client) -> set[str]:
    found: set[str] = set()
    token = ""
    while True:
        page = client.list_items(page_size=10_000, page_token=token)
        found.update(item.item_id for item in page.items)
        token = page.next_page_token
        if not token:
            return found


def test_killed_at_random_every_acknowledged_item_is_there(workspace: Path) -> None:
    rng = random.Random(7)
    there: dict[str, F32Array] = {}
    gone: set[str] = set()
    unsure: set[str] = set()
    for number in range(ROUNDS):
        with serving(workspace, "--processes", "2") as (process, address):
            writing = Writing(address, 100 * number)
            workers = children(process.pid)
            time.sleep(rng.uniform(0.2, 0.9))
            if number % 2:
                # One worker alone: its clients go on with the other.
                os.kill(workers[0], signal.SIGKILL)
                time.sleep(0.4)
            if number == 2:
                Store(workspace).activate("2")
                time.sleep(0.2)
            for pid in (process.pid, *workers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            writing.end()
        there |= writing.there
        gone |= writing.gone
        unsure |= writing.unsure
        with serving(workspace, "--processes", "1") as (_, address), Client(address) as client:
            found = everything(client)
            assert set(there) <= found | unsure
            assert not gone & found
            for names in writing.groups:
                present = {name for name in names if name in found} | gone.intersection(names)
                assert len(present) in {0, GROUP} or present | writing.unsure >= set(names), "a request half done"
            for name in rng.sample(sure := sorted(set(writing.there) - unsure), min(10, len(sure))):
                assert client.search(there[name], neighbor_count=1).item_ids == [name]
    assert len(there) > 20
    assert gone
    with serving(workspace, "--processes", "1") as (_, address), Client(address) as client:
        for name in ("snapshots/000001", "snapshots/000002"):
            client.activate_snapshot(name)
            found = everything(client)
            assert set(there) <= found | unsure
            assert not gone & found


def test_items_are_searchable_on_every_worker_within_a_second(workspace: Path) -> None:
    with serving(workspace, "--processes", "3") as (process, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(12)]
        for client in clients:
            client.get_active_snapshot()
        for number in range(5):
            x_D = vector(1, number)
            done = clients[number].upsert_items([ItemUpsert(item_id=f"n{number}", value=x_D)])
            written = time.monotonic()
            assert clients[number].search(x_D, neighbor_count=1).item_ids == [f"n{number}"], "the one that acknowledged"
            waiting = list(clients)
            while waiting:
                assert time.monotonic() < written + 1
                waiting = [one for one in waiting if one.search(x_D, neighbor_count=1).item_ids != [f"n{number}"]]
            assert clients[0].get_item(f"n{number}").snapshot.delta_number >= done.snapshot.delta_number
        clients[3].delete_items(["n0"])
        deadline = time.monotonic() + 1
        while any(_has(client, "n0") for client in clients):
            assert time.monotonic() < deadline
        assert len(children(process.pid)) == 3


def _has(client: Client, item_id: str) -> bool:
    try:
        client.get_item(item_id)
    except ItemNotFoundError:
        return False
    return True
