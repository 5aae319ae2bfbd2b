"""Several workers on one port: shared load, together in a swap, started again when killed, drained."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from tests.e2e.test_serve_process import command, serving, workspace
from tests.serving.conftest import make_vectors
from vicinal.client import Client, RetryPolicy, SearchResult
from vicinal.errors import UnavailableError
from vicinal.store import Store

pytestmark = pytest.mark.e2e
__all__ = ["workspace"]


def children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Asking:
    """Clients that keep asking, each on a connection of its own, and remember what came back."""

    def __init__(self, address: str, *, clients: int = 6) -> None:
        self.address = address
        self.stop = threading.Event()
        self.errors: list[Exception] = []
        self.replies: list[list[tuple[float, int, str]]] = [[] for _ in range(clients)]
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, number: int) -> None:
        x_QD = make_vectors(10, seed=number)
        rng = np.random.default_rng(number)
        try:
            with Client(self.address) as client:
                while not self.stop.is_set():
                    reply = client.search(x_QD[rng.integers(10)], neighbor_count=3)
                    self.replies[number].append((time.monotonic(), reply.snapshot.generation, reply.snapshot.name))
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)


def test_workers_swap_together_and_a_killed_one_is_replaced_unseen(workspace: Path) -> None:
    with serving(workspace, "--processes", "3") as (process, address):
        assert len(children(process.pid)) == 3
        with Asking(address) as asking:
            for swap in range(8):
                time.sleep(0.15)
                Store(workspace).activate(str(1 + (swap + 1) % 2))
                if swap in {2, 5}:
                    os.kill(children(process.pid)[0], signal.SIGKILL)
            time.sleep(0.5)
        assert not asking.errors
        for replies in asking.replies:
            generations = [generation for _, generation, _ in replies]
            assert generations == sorted(generations)
            assert generations[-1] == 9
        deadline = time.monotonic() + 10
        while len(children(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(children(process.pid)) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_activate_returns_when_every_worker_answers_from_it(workspace: Path) -> None:
    with serving(workspace, "--processes", "3") as (_, address), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(12)]
        for client in clients:
            client.get_active_snapshot()
        for name in ("snapshots/000002", "snapshots/000001", "snapshots/000002"):
            clients[0].activate_snapshot(name)
            assert {client.get_active_snapshot().name for client in clients} == {name}


def test_no_second_server_gets_the_port(workspace: Path) -> None:
    with serving(workspace, "--processes", "2") as (_, address):
        port = address.rpartition(":")[2]
        for processes in ("1", "2"):
            words = [*command(workspace)[:-1], port, "--processes", processes]
            again = subprocess.run(words, capture_output=True, timeout=40, check=False)
            assert again.returncode == 1
            assert b"the port is taken" in again.stderr
            assert b"Traceback" not in again.stderr


def test_workers_go_when_their_supervisor_is_killed(workspace: Path) -> None:
    with serving(workspace, "--processes", "2") as (process, address):
        workers = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        once = RetryPolicy(attempt_count=1)
        with Client(address, retry=once) as client, pytest.raises(UnavailableError):
            client.search("item-00001")


def test_a_snapshot_no_worker_can_open_is_one_line(workspace: Path) -> None:
    (workspace / "snapshots" / "000001" / "vectors.npy").unlink()
    done = subprocess.run(command(workspace, "--processes", "2"), capture_output=True, timeout=40, check=False)
    assert done.returncode == 1
    errors = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "vectors.npy is missing" in errors[0]


def test_a_stream_survives_the_death_of_its_worker(workspace: Path) -> None:
    x_QD = make_vectors(5000, seed=1)
    patient = RetryPolicy(attempt_count=40, max_s=0.5)
    with serving(workspace, "--processes", "2") as (process, address), Client(address, retry=patient) as client:
        found = []
        for number, one in enumerate(client.stream_search(x_QD, neighbor_count=1)):
            found.append(one)
            if number in {500, 2500}:
                for pid in children(process.pid):
                    os.kill(pid, signal.SIGKILL)
    assert len(found) == 5000
    assert all(isinstance(one, SearchResult) for one in found)


def connections(pid: int, port: int) -> int:
    """Returns how many open connections of a port a process has."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    open_ones = {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == "01"}
    count = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(file.readlink()) in open_ones
    return count


def test_connections_are_spread_evenly_over_the_workers_also_after_a_death(workspace: Path) -> None:
    with serving(workspace, "--processes", "3") as (process, address):
        port = int(address.rpartition(":")[2])

        def spread(count: int) -> list[int]:
            with contextlib.ExitStack() as stack:
                for number in range(count):
                    client = stack.enter_context(Client(address))
                    assert len(client.search(make_vectors(1, seed=number)[0], neighbor_count=3)) == 3
                return sorted(found for pid in children(process.pid) if (found := connections(pid, port)))

        assert spread(12) == [4, 4, 4]
        assert spread(7) == [2, 2, 3]
        os.kill(max(children(process.pid), key=lambda pid: connections(pid, port)), signal.SIGKILL)
        for _ in range(200):
            time.sleep(0.05)
            if spread(9) == [3, 3, 3]:
                break
        assert spread(9) == [3, 3, 3]
