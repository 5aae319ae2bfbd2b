"""Swaps of snapshots under load: failed and mixed answers, and latency while they happen beside the time between.

python -m benchmarks.bench_swap            a million queries over 100 swaps, Fashion-MNIST, 784-d
python -m benchmarks.bench_swap --quick    a few thousand made vectors, proves the script

Two snapshots hold the same vectors under other ids, so every neighbor of an answer tells which of them gave it: an
answer is mixed where it is not what the snapshot that it names gives alone, and where a caller sees an older one after
a newer. A swap lasts from the command until the last answer of the old snapshot and a tenth of a second more.
"""

import asyncio
import itertools
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.frame import Frame
from benchmarks.index_data import FASHION, Data, fashion_mnist, mixture, put
from benchmarks.serve_memory import server
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from vicinal.client import AsyncClient
from vicinal.errors import VicinalError
from vicinal.store import Store

K = 10
_AFTER_S = 0.1


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--pause-s", type=float, default=2.0, help="seconds between swaps")


@dataclass(slots=True)
class _Seen:
    """What the callers saw."""

    times_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    mixed: int = 0
    swaps_s: list[float] = field(default_factory=list)
    """When each swap was asked for."""


class _Load:
    """Callers and swaps at once.

    Args:
        store: has two snapshots.
        x_QD: the queries.
        truth: item ids that each snapshot gives alone, by its name.
        seen: where to write what is seen.
    """

    def __init__(self, store: Store, x_QD: np.ndarray, truth: dict[str, list[list[str]]], seen: _Seen) -> None:
        self._store, self._x_QD, self._truth, self._seen = store, x_QD, truth, seen
        self._over = False

    async def run(self, address: str, arguments: object) -> None:
        """Asks until there were enough queries and swaps."""
        wanted = vars(arguments)
        callers = [self._caller(address, number, wanted["callers"]) for number in range(wanted["callers"])]
        await asyncio.gather(self._swap(wanted["swaps"], wanted["queries"], wanted["pause_s"]), *callers)

    async def _swap(self, swaps: int, queries: int, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        for number in range(swaps):
            self._seen.swaps_s.append(time.perf_counter())
            self._store.activate(str(2 - number % 2))
            await asyncio.sleep(pause_s)
        while len(self._seen.times_s) < queries:
            await asyncio.sleep(0.1)
        self._over = True

    async def _caller(self, address: str, number: int, callers: int) -> None:
        seen, last = self._seen, 0
        async with AsyncClient(address) as client:
            for place in itertools.islice(itertools.cycle(range(len(self._x_QD))), number * 1000 // callers, None):
                if self._over:
                    return
                start = time.perf_counter()
                try:
                    reply = await client.search(self._x_QD[place], neighbor_count=K)
                except VicinalError as error:
                    seen.failed.append(f"{type(error).__name__}: {error}")
                    continue
                end = time.perf_counter()
                seen.times_s.append(end)
                seen.latencies_s.append(end - start)
                seen.generations.append(reply.snapshot.generation)
                own = reply.item_ids == self._truth[reply.snapshot.name][place]
                seen.mixed += not own or reply.snapshot.generation < last
                last = reply.snapshot.generation


def _during(seen: _Seen) -> np.ndarray:
    """Returns which answers came while a swap was under way."""
    times_N, generations_N = np.array(seen.times_s), np.array(seen.generations)
    during_N = np.zeros(len(times_N), bool)
    for asked_s, next_s in itertools.pairwise([*seen.swaps_s, np.inf]):
        between_N = (times_N >= asked_s) & (times_N < next_s)
        old_N = between_N & (generations_N == generations_N[between_N].min(initial=10**9))
        if generations_N[between_N].min(initial=0) == generations_N[between_N].max(initial=0):
            continue
        during_N |= between_N & (times_N <= times_N[old_N].max() + _AFTER_S)
    return during_N


def _prepare(frame: Frame, store: Store, data: Data) -> dict[str, list[list[str]]]:
    truth = {}
    for number in range(2):
        rows_N = np.random.default_rng(frame.seed).permutation(len(data.x_ND)) if number else np.arange(len(data.x_ND))
        put(store, replace(data, x_ND=np.ascontiguousarray(data.x_ND[rows_N])), seed=frame.seed)
        build(store, config=BuildConfig(kind="hnsw", seed=frame.seed))
        with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
            found = snapshot.search(data.x_QD, neighbor_count=K)
            truth[snapshot.name] = [snapshot.items.item_ids(rows) for rows in found.rows_QK]
    store.activate("1")
    return truth


def main() -> None:
    """Measures."""
    frame = Frame.start("swap", __doc__, add=_arguments)
    if frame.quick:
        data = mixture(3000, 32, query_count=1000, seed=frame.seed)
        frame.arguments.queries, frame.arguments.swaps, frame.arguments.pause_s = 3000, 4, 0.5
    else:
        whole = fashion_mnist(frame.arguments.folder)
        data = replace(whole, x_QD=np.ascontiguousarray(whole.x_QD[:1000]))
    seen = _Seen()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "workspace")
        load = _Load(store, data.x_QD, _prepare(frame, store, data), seen)
        with server(store.root, 2) as (_, address):
            asyncio.run(load.run(address, frame.arguments))
    latencies_N, during_N = np.array(seen.latencies_s), _during(seen)
    generations = len(set(seen.generations))
    frame.add("queries", len(latencies_N), unit="answers", note=f"{generations} generations answered")
    frame.add("failed", len(seen.failed), unit="queries", goal="0", note="; ".join(seen.failed[:3]))
    frame.add("mixed", seen.mixed, unit="queries", goal="0")
    frame.add("queries during swaps", float(during_N.mean()), unit="fraction")
    for percent in (50.0, 99.0, 99.9):
        swap, steady = (1000 * float(np.percentile(latencies_N[part_N], percent)) for part_N in (during_N, ~during_N))
        goal = "<= 1.5 x" if percent == 99.9 else ""
        frame.add(f"p{percent:g} during swaps", swap, unit="ms", peer="steady state", peer_value=steady, goal=goal)
    frame.finish()


if __name__ == "__main__":
    main()
