"""Queries by image over loopback, beside what their parts take apart.

python -m benchmarks.bench_images            photographs of clothes with two encoders, and CIFAR-10 JPEGs
python -m benchmarks.bench_images --quick    a few hundred made-up JPEGs, proves the script

One caller: the time of a query beside decoding, forward pass and search of the same image one after the other, with as
many threads as a worker of the server has. 32 callers: images a second beside the encoder alone, in batches on all
cores, and beside encoder and decoder together, where both share the cores. The server remembers no embedding.
"""

import asyncio
import itertools
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench_embed import Case, Runs, arguments, cases
from benchmarks.frame import Frame, alternate
from benchmarks.serve_memory import server
from index.blas import load_faiss
from index.build import BuildConfig, build
from index.embed import embed
from index.snapshot import Snapshot
from vicinal.client import AsyncClient

K = 10
FORGET = ("limits.embedding_cache_count=0",)


def _arguments(parser: ArgumentParser) -> None:
    arguments(parser)
    parser.add_argument("--images", type=int, default=1000, help="images of each corpus")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="workers of the server")


def _apart(snapshot: Snapshot, runs: Runs, contents: Sequence[bytes], threads: int) -> float:
    """Returns the median of decoding, forward pass and search of one image, one after the other, ms."""
    torch.set_num_threads(threads)
    load_faiss().omp_set_num_threads(threads)
    times = []
    for content in contents:
        start = time.perf_counter()
        x_1D = runs.encoder.embed(runs.encoder.decode(content)[None])
        snapshot.search(x_1D, neighbor_count=K)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


async def _ask(address: str, contents: Sequence[bytes], *, callers: int, seconds: float) -> tuple[float, float]:
    """Returns images a second and the median time of a query, ms."""
    times: list[float] = []

    async def caller(client: AsyncClient, place: int) -> None:
        for content in itertools.islice(itertools.cycle(contents), place, None):
            start = time.perf_counter()
            if start > until:
                return
            await client.search(content, neighbor_count=K)
            times.append(time.perf_counter() - start)

    clients = [AsyncClient(address) for _ in range(callers)]
    try:
        until = time.perf_counter() + 60
        await asyncio.gather(*(client.search(contents[0], neighbor_count=K) for client in clients))
        start = time.perf_counter()
        until = start + seconds
        await asyncio.gather(
            *(caller(client, number * len(contents) // callers) for number, client in enumerate(clients))
        )
        return len(times) / (time.perf_counter() - start), 1000 * statistics.median(times)
    finally:
        await asyncio.gather(*(client.close() for client in clients))


def _lone(
    frame: Frame, name: str, address: str, apart: partial[float], contents: Sequence[bytes], processes: int
) -> None:
    def served() -> float:
        return asyncio.run(_ask(address, contents, callers=1, seconds=frame.arguments.seconds))[1]

    values = alternate({"served": served, "apart": apart}, rounds=frame.arguments.rounds)
    medians = {way: statistics.median(times) for way, times in values.items()}
    frame.add(
        f"{name}: one caller, {processes} workers", medians["served"], unit="ms",
        peer="decode + forward + search", peer_value=medians["apart"], goal="<= 1.3 x",
    )  # fmt: skip


def _many(frame: Frame, name: str, address: str, runs: Runs, contents: Sequence[bytes], processes: int) -> None:
    arguments = frame.arguments

    def served() -> float:
        return asyncio.run(_ask(address, contents, callers=arguments.callers, seconds=arguments.seconds))[0]

    torch.set_num_threads(runs.workers)
    ways = {run.__name__: partial(runs.rate, run) for run in (runs.decode, runs.forward, runs.forward_side_by_side)}
    values = alternate({"served": served, **ways}, rounds=arguments.rounds)
    rates = {way: statistics.median(found) for way, found in values.items()}
    forward = max(rates["forward"], rates["forward_side_by_side"])
    title = f"{name}: {arguments.callers} callers, {processes} workers"
    frame.add(
        title, rates["served"], unit="images/s", peer="the encoder in batches", peer_value=forward, goal=">= 0.9 x"
    )
    both = 1 / (1 / rates["decode"] + 1 / forward)
    frame.add(
        f"{title}, beside both", rates["served"], unit="images/s", peer="decoder and encoder", peer_value=both,
        note=f"decoder alone {rates['decode']:,.0f} images/s",
    )  # fmt: skip


def _measure(frame: Frame, case: Case, folder: Path) -> None:
    case = replace(case, corpus=f"{case.corpus}{'&' if '?' in case.corpus else '?'}limit={frame.arguments.images}")
    runs = Runs(case, folder)
    embed(runs.store, [case.corpus])
    report = build(runs.store, config=BuildConfig(kind="hnsw", seed=frame.seed))
    runs.store.activate(report.version)
    contents = [runs.corpus.read(item) for item in runs.items]
    few = contents[: 10 if frame.quick else 200]
    frame.config[case.name] = {"images": len(runs.items), "architecture": case.architecture, "size": case.size}
    with Snapshot.open(runs.store.path("snapshots", report.version)) as snapshot:
        for processes in frame.arguments.processes:
            threads = max(1, runs.workers // processes)
            with server(runs.store.root, processes, *FORGET) as (_, address):
                _lone(frame, case.name, address, partial(_apart, snapshot, runs, few, threads), few, processes)
                _many(frame, case.name, address, runs, contents, processes)


def main() -> None:
    """Measures every case."""
    frame = Frame.start("images", __doc__, add=_arguments)
    if frame.quick:
        frame.arguments.seconds, frame.arguments.rounds, frame.arguments.processes = 0.5, 1, [2]
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(frame, Path(folder)):
            _measure(frame, case, Path(folder))
    frame.finish()


if __name__ == "__main__":
    main()
