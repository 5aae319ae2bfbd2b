"""A server under everything at once: python -m benchmarks.soak_serve --minutes 60, or --requests 1000000.

Good clients (unary, batch, stream) beside slow, cancelling and malformed ones, while snapshots are
swapped and workers killed; with --writes also clients that upsert and delete items. Ends with exit
code 1 if a good request failed, a reply was not what the snapshot it names gives alone, a generation
went back on a connection, an acknowledged item was not there, or memory grew.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.index_data import mixture, put
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from tests.serving.hostile import BAD_CODES, attack
from vicinal.client import AsyncClient, Client, ItemUpsert, RetryPolicy, SearchResult
from vicinal.errors import FingerprintMismatchError, ItemNotFoundError, VicinalError
from vicinal.store import Store
from vicinal.types import Metric

SNAPSHOTS = 4
K = 5
PATIENT = RetryPolicy(attempt_count=60, max_s=0.5)
SPARED = frozenset({"UpsertItems", "DeleteItems", "StartRefresh"})
FAR = 1000.0
"""Where items are upserted: so far from every query that the truth stays what it is."""


class Soak:
    """One run."""

    def __init__(self, root: Path, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.store = Store.create(root)
        self.x_QD = mixture(1, 32, query_count=200, seed=99).x_QD
        self.truth: dict[str, list[list[str]]] = {}
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self.memory: list[tuple[float, int]] = []
        self.written: dict[tuple[str, str], bool] = {}
        self.until = time.monotonic() + 60 * arguments.minutes

    def prepare(self) -> None:
        """Builds snapshots of other content, and what each of them answers alone."""
        for number in range(SNAPSHOTS):
            # Under L2 there is a place far from every query.
            put(self.store, replace(mixture(3000, 32, query_count=1, seed=number), metric=Metric.L2), seed=number)
            build(self.store, config=BuildConfig(kind="hnsw"))
            with Snapshot.open(self.store.path("snapshots", "latest")) as snapshot:
                found = snapshot.search(self.x_QD, neighbor_count=K)
                self.truth[snapshot.name] = [snapshot.items.item_ids(rows) for rows in found.rows_QK]
        self.store.activate("1")

    @property
    def over(self) -> bool:
        """Whether time is up, or enough was asked."""
        good = self.seen["unary"] + self.seen["batch"] + self.seen["stream"]
        return time.monotonic() > self.until or good >= int(self.arguments.requests)

    def check(self, query: int, reply: SearchResult, last: int) -> int:
        """Holds a reply to what its snapshot gives alone."""
        if sorted(reply.item_ids) != sorted(self.truth[reply.snapshot.name][query]):
            self.problems.append(f"a reply of {reply.snapshot.name} to query {query} is not its own")
        if reply.snapshot.generation < last:
            self.problems.append("a generation went back on a connection")
        return reply.snapshot.generation

    async def unary(self, address: str, seed: int) -> None:
        """Asks one query after the other."""
        rng, last = random.Random(seed), 0
        async with AsyncClient(address, retry=PATIENT) as client:
            while not self.over:
                query = rng.randrange(len(self.x_QD))
                reply = await client.search(self.x_QD[query], neighbor_count=K)
                # A killed worker ends the connection; the next one may be to a worker that is a swap behind.
                last = self.check(query, reply, 0 if self.arguments.kill_s else last)
                self.seen["unary"] += 1

    async def batch(self, address: str) -> None:
        """Asks all queries at once."""
        async with AsyncClient(address, retry=PATIENT) as client:
            while not self.over:
                reply = await client.batch_search(self.x_QD, neighbor_count=K)
                for query, one in enumerate(reply):
                    self.check(query, one, 0)
                self.seen["batch"] += len(reply)
                await asyncio.sleep(0.05)

    async def stream(self, address: str) -> None:
        """Streams queries."""
        async with AsyncClient(address, retry=PATIENT) as client:
            places = itertools.cycle(range(len(self.x_QD)))
            asked = (self.x_QD[place] for place in itertools.takewhile(lambda _: not self.over, places))
            query = 0
            async for reply in client.stream_search(asked, neighbor_count=K):
                if isinstance(reply, VicinalError):
                    raise reply
                self.check(query, reply, 0)
                query = (query + 1) % len(self.x_QD)
                self.seen["stream"] += 1

    async def nuisance(self, address: str, seed: int) -> None:
        """Hangs up half way, reads slowly, and sends what is no message."""
        rng = random.Random(seed)
        async with AsyncClient(address, retry=RetryPolicy(attempt_count=1)) as client:
            while not self.over:
                task = asyncio.ensure_future(client.batch_search(self.x_QD, neighbor_count=500))
                await asyncio.sleep(rng.random() * 0.05)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                self.seen["cancelled"] += 1
                try:
                    seen = await attack(address, count=20, seed=rng.randrange(10**9), callers=2, spared=SPARED)
                except grpc.RpcError:
                    continue
                self.seen["hostile"] += sum(seen.values())
                self.problems += [f"{code.name} for a hostile message" for code in BAD_CODES if seen[code.name]]

    async def writer(self, address: str, seed: int) -> None:
        """Upserts items and deletes some, and looks for each at once."""
        rng = np.random.default_rng(seed)
        async with AsyncClient(address, retry=PATIENT) as client:
            for number in itertools.count():
                if self.over:
                    return
                name, x_D = f"written-{seed}-{number}", (rng.standard_normal(32) + FAR).astype(np.float32)
                with contextlib.suppress(FingerprintMismatchError):  # a swap came between
                    done = await client.upsert_items([ItemUpsert(item_id=name, value=x_D)])
                    self.written[done.snapshot.fingerprint, name] = True
                    reply = await client.search(x_D, neighbor_count=1)
                    same = reply.snapshot.fingerprint == done.snapshot.fingerprint
                    if same and reply.item_ids != [name] and not self.arguments.kill_s:
                        self.problems.append(f"{name} is acknowledged and not found")
                    if number % 4 == 3:
                        # Unknown until acknowledged: a swap meanwhile fails the call, and what was deleted beside the
                        # snapshot that went is deleted. Then not there, also where the second call found nothing.
                        del self.written[done.snapshot.fingerprint, name]
                        gone = await client.delete_items([name])
                        self.written[gone.snapshot.fingerprint, name] = False
                    self.seen["writes"] += 1
                await asyncio.sleep(self.arguments.write_s)

    def check_written(self, address: str) -> None:
        """Looks for every acknowledged item in a snapshot of its space."""
        with Client(address, retry=PATIENT) as client:
            places = {one.fingerprint: one.name for one in client.list_snapshots().snapshots}
            for (fingerprint, name), there in self.written.items():
                try:
                    client.get_item(name, snapshot=places[fingerprint])
                    found = True
                except ItemNotFoundError:
                    found = False
                if found != there:
                    self.problems.append(f"{name} is {'not there' if there else 'there again'}")

    async def trouble(self, pid: int) -> None:
        """Swaps snapshots, kills workers, and looks at the memory of the server."""
        swapped = killed = time.monotonic()
        for swap in itertools.count(1):
            while time.monotonic() - swapped < self.arguments.swap_s and not self.over:
                await asyncio.sleep(0.05)
            if self.over:
                return
            swapped = time.monotonic()
            self.store.activate(str(1 + swap % SNAPSHOTS))
            self.seen["swaps"] += 1
            workers = _children(pid)
            self.memory.append((time.monotonic(), sum(_resident(worker) for worker in workers)))
            if self.arguments.kill_s and workers and time.monotonic() - killed > self.arguments.kill_s:
                killed = time.monotonic()
                os.kill(random.choice(workers), signal.SIGKILL)
                self.seen["kills"] += 1

    async def run(self, address: str, pid: int) -> None:
        """Runs everything at once."""
        good = [self.unary(address, seed) for seed in range(self.arguments.callers)]
        others = [self.batch(address), self.stream(address), self.nuisance(address, 7), self.trouble(pid)]
        others += [self.writer(address, seed) for seed in range(self.arguments.writes)]
        for result in await asyncio.gather(*good, *others, return_exceptions=True):
            if isinstance(result, BaseException):
                self.problems.append(f"{type(result).__name__}: {result}")

    def growth(self) -> float:
        """Returns the memory of the last third of the run over that of the middle one."""
        sizes = [size for _, size in self.memory]
        third = len(sizes) // 3
        return float(np.median(sizes[-third:]) / np.median(sizes[third:-third])) if third else 1.0


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _resident(pid: int) -> int:
    try:
        return 4096 * int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0


def main() -> None:
    """Runs, and says what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--swap-s", type=float, default=2.0, help="seconds between swaps")
    parser.add_argument("--kill-s", type=float, default=30.0, help="seconds between kills of a worker; 0 kills none")
    parser.add_argument("--writes", type=int, default=0, help="clients that upsert and delete items")
    parser.add_argument("--write-s", type=float, default=0.1, help="seconds between the writes of each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder) / "workspace", arguments)
        soak.prepare()
        ready = Path(folder) / "ready.json"
        words = ["serve", "-w", str(soak.store.root), "--port", "0", "--ready-file", str(ready)]
        words += ["--processes", str(arguments.processes), "--set", "observe.log_level=error"]
        server = subprocess.Popen([sys.executable, "-m", "vicinal", *words])
        try:
            while not ready.exists():
                time.sleep(0.05)
            known: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
            soak.until = time.monotonic() + 60 * arguments.minutes
            asyncio.run(soak.run(str(known["address"]), server.pid))
            soak.check_written(str(known["address"]))
        finally:
            server.terminate()
            code = server.wait()
    growth = soak.growth()
    print(json.dumps({**soak.seen, "memory_growth": round(growth, 3), "exit_code": code, "problems": soak.problems}))
    sys.exit(1 if soak.problems or code or (len(soak.memory) > 30 and growth > 1.05) else 0)


if __name__ == "__main__":
    main()
