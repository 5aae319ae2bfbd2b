"""Exact search beside FAISS's flat index as its wheel comes, each in a process of its own, in turn.

python -m benchmarks.bench_exact            Fashion-MNIST, 784-d, L2
python -m benchmarks.bench_exact --quick    a few thousand made vectors, proves the script
"""

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.frame import ROOT, Frame
from benchmarks.index_data import FASHION, Data, fashion_mnist, mixture
from vicinal.types import F32Array, Metric

BATCHES = (1, 32, 1000)
K = 10


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn")
    parser.add_argument("--worker", choices=["ours", "faiss"], help="measure one engine and print its figures")


def _data(*, quick: bool, folder: Path) -> Data:
    return mixture(5000, 64, query_count=1000, seed=0) if quick else fashion_mnist(folder)


def _ours(data: Data) -> Callable[[F32Array], object]:
    from index.exact import exact_search, squared_norms

    norms_N = squared_norms(data.x_ND) if data.metric is Metric.L2 else None
    return lambda x_QD: exact_search(x_QD, data.x_ND, metric=data.metric, neighbor_count=K, norms_N=norms_N)


def _faiss(data: Data) -> Callable[[F32Array], object]:
    import faiss

    flat = faiss.IndexFlat(data.x_ND.shape[1], faiss.METRIC_L2 if data.metric is Metric.L2 else 0)
    flat.add(data.x_ND)
    return lambda x_QD: flat.search(x_QD, K)


def _work(engine: str, *, quick: bool, folder: Path) -> None:
    """Prints queries per second for each batch size, whenever a line comes in."""
    data = _data(quick=quick, folder=folder)
    ask = {"ours": _ours, "faiss": _faiss}[engine](data)
    for size in BATCHES:
        ask(data.x_QD[:size])
    for line in sys.stdin:
        size = int(line)
        repeats = max(1, (20 if quick else 200) // size)
        start = time.perf_counter()
        for repeat in range(repeats):
            first = repeat * size % (len(data.x_QD) - size + 1)
            ask(data.x_QD[first : first + size])
        print(repeats * size / (time.perf_counter() - start), flush=True)


class _Worker:
    def __init__(self, frame: Frame, engine: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        words = ["--quick"] if frame.quick else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bench_exact", "--worker", engine, *words,
             "--folder", str(frame.arguments.folder)],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def measure(self, size: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def main() -> None:
    """Measures both engines in turn at each batch size."""
    frame = Frame.start("exact", __doc__, add=_arguments)
    if frame.arguments.worker:
        _work(frame.arguments.worker, quick=frame.quick, folder=frame.arguments.folder)
        return
    workers = {engine: _Worker(frame, engine) for engine in ("ours", "faiss")}
    goals = {1: ">= 1 x", 32: ">= 4 x where the kernel was wrong", 1000: ">= 2 x where the kernel was wrong"}
    for size in BATCHES:
        values: dict[str, list[float]] = {engine: [] for engine in workers}
        for _ in range(2 if frame.quick else frame.arguments.rounds):
            for engine, worker in workers.items():
                values[engine].append(worker.measure(size))
        frame.config[f"batch {size}"] = values
        ours, faiss = (float(np.median(values[engine])) for engine in workers)
        frame.add(f"batch {size}", ours, unit="1/s", peer="faiss flat", peer_value=faiss, goal=goals[size])
    for worker in workers.values():
        worker.close()
    frame.finish()


if __name__ == "__main__":
    main()
