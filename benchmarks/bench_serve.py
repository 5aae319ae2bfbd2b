"""The server beside its peers over loopback: unary calls, streams and batches, at 1, 8 and 32 callers.

python -m benchmarks.bench_serve                                     Fashion-MNIST, 784-d, our server alone
python -m benchmarks.bench_serve --peers chroma milvus-lite --peer-python ENV/bin/python
python -m benchmarks.bench_serve --redis 127.0.0.1:6379 --peers redis --peer-python ENV/bin/python
python -m benchmarks.bench_serve --quick                             a few thousand made vectors, proves the script

Every server gets the same vectors; all are asked in turn in one run, each by its own client in a
process beside it. Recall@10 is measured on what came back over the wire. Where h2load is on the PATH it
asks our server too, as a native client that repeats one query.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import serve_peers
from benchmarks.frame import ROOT, Frame
from benchmarks.index_data import FASHION, Data, fashion_mnist, mixture, put
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from vicinal.codec import encode_vector
from vicinal.store import Store
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2

K = 10


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--recall", type=float, default=0.99, help="recall that our index is built for")
    parser.add_argument("--kind", default="hnsw", help="our kind of index")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="workers of our server")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured, in turn")
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--peers", nargs="*", default=[], choices=["chroma", "milvus-lite", "redis"])
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has the peers' packages")
    parser.add_argument("--peer-effort", type=int, default=0, help="search effort of peers that take one")
    parser.add_argument("--redis", default="127.0.0.1:6379", help="a Redis with the search module")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _our_server(root: Path, processes: int) -> Iterator[str]:
    ready = root / "work" / "ready.json"
    words = [sys.executable, "-m", "vicinal", "serve", "-w", str(root), "--port", "0", "--ready-file", str(ready)]
    process = subprocess.Popen([*words, "--processes", str(processes), "--set", "observe.log_level=error"])
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("our server did not start")
            time.sleep(0.05)
        yield str(json.loads(ready.read_text(encoding="utf-8"))["address"])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _peer(frame: Frame, name: str, data: Data, place: Path) -> Iterator[str]:
    address = frame.arguments.redis if name == "redis" else f"127.0.0.1:{_free_port()}"
    port = int(address.rpartition(":")[2])
    process = serve_peers.start(name, place, port, python=frame.arguments.peer_python)
    try:
        words = [frame.arguments.peer_python, "-m", "benchmarks.serve_peers", name, address]
        subprocess.run([*words, str(place / "vectors.npy"), data.metric.value], cwd=ROOT, check=True)
        yield address
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def _load(frame: Frame, peer: str, address: str, queries: Path, *, callers: int, mode: str) -> dict[str, Any]:
    python = sys.executable if peer == "vicinal" else frame.arguments.peer_python
    words = [python, "-m", "benchmarks.serve_load", "--peer", peer, "--address", address, "--mode", mode]
    words += ["--queries", str(queries), "--callers", str(callers), "--seconds", str(frame.arguments.seconds)]
    words += ["--effort", str(0 if peer == "vicinal" else frame.arguments.peer_effort), "--neighbors", str(K)]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _recall(result: dict[str, Any], truth: list[set[str]]) -> float:
    hits = [len(truth[int(place)] & {_row(name) for name in ids}) for place, ids in result["found"].items()]
    return float(np.mean(hits)) / K if hits else 0.0


def _row(name: str) -> str:
    # Ours are item-000017 or alike, the peers' are 17.
    return str(int(re.sub(r"\D", "", name) or -1))


def _measure(frame: Frame, servers: dict[str, str], queries: Path, truth: list[set[str]]) -> None:
    for callers in frame.arguments.callers:
        results: dict[str, list[dict[str, Any]]] = {}
        for _ in range(frame.arguments.rounds):
            for peer, address in servers.items():
                for mode in ("unary", "stream", "batch") if peer == "vicinal" else ("unary",):
                    result = _load(frame, peer, address, queries, callers=callers, mode=mode)
                    results.setdefault(f"{peer} {mode}", []).append(result)
        for name, runs in results.items():
            best = sorted(runs, key=lambda run: run["queries_per_second"])[len(runs) // 2]
            note = f"recall@10 {_recall(best, truth):.4f}, p50 {best['p50_ms']:.2f} ms, p99 {best['p99_ms']:.2f} ms"
            frame.add(f"{name}, {callers} callers", best["queries_per_second"], unit="1/s", note=note)


def _native(frame: Frame, address: str, x_D: np.ndarray, place: Path) -> None:
    h2load = shutil.which("h2load")
    if h2load is None:
        frame.peers["h2load"] = "not on the PATH: apt-get install nghttp2-client"
        return
    query = types_pb2.Query(vector=encode_vector(x_D))
    raw = pb.SearchRequest(query=query, options=types_pb2.SearchOptions(neighbor_count=K)).SerializeToString()
    body = place / "request.bin"
    body.write_bytes(b"\0" + len(raw).to_bytes(4, "big") + raw)
    count = str(2000 if frame.quick else 100_000)
    words = [h2load, "-n", count, "-c", "8", "-m", "4", "-d", str(body), "-H", "content-type: application/grpc"]
    words += ["-H", "te: trailers", f"http://{address}/vicinal.v1.SearchService/Search"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = re.search(r"finished in .*?, ([\d.]+) req/s", text)
    if found:
        frame.add("vicinal unary, h2load, 32 callers", float(found[1]), unit="1/s", note="one query repeated")


def main() -> None:
    """Measures."""
    frame = Frame.start("serve", __doc__, add=_arguments)
    if frame.quick:
        data = mixture(3000, 32, query_count=200, seed=frame.seed)
        frame.arguments.seconds, frame.arguments.rounds, frame.arguments.callers = 0.5, 1, [4]
    else:
        data = fashion_mnist(frame.arguments.folder)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        x_QD = np.ascontiguousarray(data.x_QD[:2000])
        np.save(place / "vectors.npy", data.x_ND)
        np.save(place / "queries.npy", x_QD)
        store = Store.create(place / "workspace")
        put(store, data, seed=frame.seed)
        report = build(store, config=BuildConfig(kind=frame.arguments.kind, recall=frame.arguments.recall))
        store.activate(report.version)
        with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
            exact = snapshot.exact(x_QD, neighbor_count=K)
            truth = [{str(row) for row in rows} for rows in exact.rows_QK.tolist()]
            start = time.perf_counter()
            snapshot.search(x_QD, neighbor_count=K)
            in_process = len(x_QD) / (time.perf_counter() - start)
        frame.add("the index in process, one batch", in_process, unit="1/s", note=f"recall {report.recall:.4f}")
        with _our_server(store.root, frame.arguments.processes) as address:
            servers = {"vicinal": address}
            _run(frame, servers, data, place, truth)
    frame.finish()


def _run(frame: Frame, servers: dict[str, str], data: Data, place: Path, truth: list[set[str]]) -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for name in frame.arguments.peers:
            try:
                servers[name] = stack.enter_context(_peer(frame, name, data, place))
                frame.peers[name] = "measured"
            except (subprocess.CalledProcessError, OSError) as error:
                frame.peers[name] = f"not measured: {error}"
        _measure(frame, servers, place / "queries.npy", truth)
        _native(frame, servers["vicinal"], data.x_QD[0], place)


if __name__ == "__main__":
    main()
