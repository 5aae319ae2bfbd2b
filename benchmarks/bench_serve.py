"""The server beside its peers over loopback, at equal recall, from Python and from a native client.

python -m benchmarks.bench_serve                          Fashion-MNIST, 784-d, our server alone
python -m benchmarks.bench_serve --peers redis pgvector milvus milvus-lite chroma --peer-python ENV/bin/python
python -m benchmarks.bench_serve --quick                  a few thousand made vectors, proves the script

Every server gets the same vectors and is asked other queries one after the other, at the least effort with
which it reaches each recall; all are asked in turn in one run. Recall@10 is measured on what came back over
the wire. ENV is made with ``pip install -r benchmarks/serve_peers.txt``. The native client, see
``serve_native.py``, asks our server, Redis and pgvector: as fast as they answer, and ("paced") all at three quarters of
the rate that the slowest of them reached just before. What a machine lacks is left out, and the result says why.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import serve_native, serve_peers
from benchmarks.frame import ROOT, Frame
from benchmarks.index_data import FASHION, Data, fashion_mnist, mixture, put
from benchmarks.serve_memory import measure, server
from benchmarks.serve_rounds import MODES, Bench, K, run_round
from benchmarks.serve_servers import Running, peer
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from vicinal.store import Store


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument(
        "--recalls", type=float, nargs="*", default=[0.95, 0.99], help="recalls to compare at, last ours"
    )
    parser.add_argument("--kind", default="hnsw", help="our kind of index")
    parser.add_argument(
        "--params",
        nargs="*",
        default=["link_count=16", "build_effort=200"],
        help="of our index; Redis's graph has these",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="workers of our server")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured, in turn")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES, help="ways to ask; default all")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--peers", nargs="*", default=[], choices=serve_peers.NAMES)
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has the peers' packages")


def _own_effort(snapshot: Snapshot, x_QD: np.ndarray, truth: list[set[str]], recall: float) -> int:
    """Returns our least effort that reaches a recall on the very queries that choose the peers' efforts."""
    count, effort = len(x_QD) // 4, 0
    for effort in serve_peers.EFFORTS:
        rows_QK = snapshot.search(x_QD[:count], neighbor_count=K, effort=effort).rows_QK.tolist()
        hits = [len(truth[place] & {str(row) for row in rows}) for place, rows in enumerate(rows_QK)]
        if float(np.mean(hits)) / K >= recall:
            break
    return effort


def _efforts(bench: Bench, own: dict[float, int], recall: float) -> dict[str, int]:
    """Returns the least effort of each server that reaches a recall."""
    found = {"vicinal": own[recall]}
    for name, running in bench.servers.items():
        if name == "vicinal":
            continue
        words = [bench.python(name), "-m", "benchmarks.serve_peers", "effort", name, running.address]
        words += [str(bench.place / "few.npy"), "--truth", str(bench.place / "truth.npy"), "--recall", str(recall)]
        done = subprocess.run([*running.prefix, *words], cwd=ROOT, check=True, capture_output=True, text=True)
        answer = json.loads(done.stdout)
        found[name] = int(answer["effort"])
        bench.frame.peers[f"{name}, recall {recall}"] = f"effort {answer['effort']}, recall {answer['recall']:.4f}"
    return found


def _measure(bench: Bench, own: dict[float, int]) -> None:
    for recall in bench.arguments.recalls:
        efforts = _efforts(bench, own, recall)
        for callers in bench.arguments.callers:
            bench.results = {}
            for _ in range(bench.arguments.rounds):
                run_round(bench, efforts, callers, last=recall == bench.arguments.recalls[-1])
            for name, runs in bench.results.items():
                best = sorted(runs, key=lambda run: run["queries_per_second"])[len(runs) // 2]
                p50_ms, p99_ms = (statistics.median(run[key] for run in runs) for key in ("p50_ms", "p99_ms"))
                note = f"recall@10 {bench.recall(best):.4f}, p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms"
                title = f"{name}, {callers} callers, recall {recall:g}"
                bench.frame.add(title, best["queries_per_second"], unit="1/s", note=note)


def _fill(frame: Frame, stack: ExitStack, servers: dict[str, Running], data: Data, place: Path) -> None:
    for name in frame.arguments.peers:
        try:
            with ExitStack() as mine:
                python = frame.arguments.peer_python
                running = mine.enter_context(peer(name, place / "peers" / name, python=python))
                words = [*running.prefix, python, "-m", "benchmarks.serve_peers", "fill", name, running.address]
                words += [str(place / "vectors.npy"), "--metric", data.metric.value]
                subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
                servers[name] = running
                stack.push(mine.pop_all())
            frame.peers[name] = "measured"
        except subprocess.CalledProcessError as error:
            frame.peers[name] = f"not measured: {(error.stderr or str(error)).strip()[-300:]}"
        except OSError as error:
            frame.peers[name] = f"not measured: {error}"


def _data(frame: Frame) -> Data:
    if not frame.quick:
        return fashion_mnist(frame.arguments.folder)
    arguments = frame.arguments
    arguments.seconds, arguments.rounds, arguments.callers, arguments.recalls = 0.5, 1, [4], [0.95]
    return mixture(3000, 32, query_count=200, seed=frame.seed)


def main() -> None:
    """Measures."""
    frame = Frame.start("serve", __doc__, add=_arguments)
    data = _data(frame)
    # Everybody may look in: one peer runs as nobody.
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        place.chmod(0o755)
        x_QD = np.ascontiguousarray(data.x_QD[:2000])
        np.save(place / "vectors.npy", data.x_ND)
        np.save(place / "queries.npy", x_QD)
        store = Store.create(place / "workspace")
        put(store, data, seed=frame.seed)
        params = dict(each.split("=", 1) for each in frame.arguments.params)
        config = BuildConfig(kind=frame.arguments.kind, params=params, recall=frame.arguments.recalls[-1])
        report = build(store, config=config)
        store.activate(report.version)
        _memory(frame, store, x_QD)
        snapshot = stack.enter_context(Snapshot.open(store.path("snapshots", report.version)))
        exact = snapshot.exact(x_QD, neighbor_count=K)
        np.save(place / "few.npy", x_QD[: len(x_QD) // 4])
        np.save(place / "truth.npy", exact.rows_QK[: len(x_QD) // 4])
        truth = [{str(row) for row in rows} for rows in exact.rows_QK.tolist()]
        own = {recall: _own_effort(snapshot, x_QD, truth, recall) for recall in frame.arguments.recalls}
        _alone(frame, snapshot, x_QD, own)
        _, address = stack.enter_context(server(store.root, frame.arguments.processes))
        servers = {"vicinal": Running(address=address)}
        _fill(frame, stack, servers, data, place)
        program, why = serve_native.compiled(place)
        frame.peers["native client"] = why or "measured"
        operator = "<=>" if data.metric.value == "cosine" else "<->"
        _measure(Bench(frame, place, servers, truth, program, operator), own)
    frame.finish()


def _memory(frame: Frame, store: Store, x_QD: np.ndarray) -> None:
    # While this process has the snapshot open, it counts as one of those that share its pages.
    gc.collect()
    assert str(store.root) not in Path("/proc/self/maps").read_text(encoding="utf-8"), "the snapshot is mapped here"
    one, two = (measure(store.root, x_QD, processes=processes) for processes in (1, 2))
    frame.add("memory of one worker", one, unit="MiB", note="proportional set size")
    frame.add("memory of two workers to one", two / one, unit="fraction", goal="<= 1.3", note=f"{two:.0f} MiB")


def _alone(frame: Frame, snapshot: Snapshot, x_QD: np.ndarray, own: dict[float, int]) -> None:
    """Adds the limit: the search alone, one query after the other in one thread, and all at once."""
    for recall, effort in own.items():
        frame.peers[f"vicinal, recall {recall}"] = f"effort {effort}"
        single = snapshot.single(K, effort=effort)
        if single is None:
            continue
        start = time.perf_counter()
        for x_D in x_QD:
            single.query[:] = x_D.tobytes()
            single.search()
        rate = len(x_QD) / (time.perf_counter() - start)
        frame.add(f"the search alone, one thread, recall {recall:g}", rate, unit="1/s", note="one after the other")
    start = time.perf_counter()
    snapshot.search(x_QD, neighbor_count=K, effort=own[frame.arguments.recalls[-1]])
    frame.add("the index in process, one batch", len(x_QD) / (time.perf_counter() - start), unit="1/s")


if __name__ == "__main__":
    main()
