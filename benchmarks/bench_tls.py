"""What TLS costs, beside plain text and beside gRPC's own server and client: single queries of Python callers.

python -m benchmarks.bench_tls            Fashion-MNIST, 784-d, 32 callers
python -m benchmarks.bench_tls --quick    a few thousand made vectors, proves the script

All servers have the same snapshot and the same number of workers and are asked in turn, at the effort that the
snapshot was built for.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from benchmarks.frame import ROOT, Frame
from benchmarks.index_data import FASHION, fashion_mnist, mixture, put
from benchmarks.serve_memory import server
from benchmarks.serve_rounds import SHARED
from index.build import BuildConfig, build
from vicinal.store import Store

OWN, TLS, GRPC = "plain text", "TLS", "TLS by gRPC's server"


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2, help="workers of each server")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn")


def _settings(place: Path) -> dict[str, tuple[str, ...]]:
    """Makes the certificates; returns the settings of each server."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(place / "ca.pem")
    leaf = authority.issue_cert("127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(place / "server.pem")
    tls = tuple(f"tls.{what}={place / 'server.pem'}" for what in ("certificate", "private_key"))
    return {OWN: (), TLS: tls, GRPC: (*tls, "listen.transport=grpc")}


def _ask(frame: Frame, place: Path, address: str, *more: str) -> dict[str, Any]:
    arguments, output = frame.arguments, place / "result.json"
    words = [sys.executable, "-m", "benchmarks.serve_load", "--peer", "vicinal", "--address", address]
    words += ["--queries", str(place / "queries.npy"), "--callers", str(arguments.callers), "--output", str(output)]
    words += ["--seconds", str(arguments.seconds), *more]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def main() -> None:
    """Measures."""
    frame = Frame.start("tls", __doc__, add=_arguments)
    if frame.quick:
        frame.arguments.seconds, frame.arguments.rounds = 0.5, 1
    data = mixture(3000, 32, query_count=200, seed=0) if frame.quick else fashion_mnist(frame.arguments.folder)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        np.save(place / "queries.npy", np.ascontiguousarray(data.x_QD[:2000]))
        store = Store.create(place / "workspace")
        put(store, data, seed=frame.seed)
        store.activate(build(store, config=BuildConfig(kind="hnsw", seed=frame.seed)).version)
        addresses = {
            name: stack.enter_context(server(store.root, frame.arguments.processes, *settings))[1]
            for name, settings in _settings(place).items()
        }
        known, shared = ("--ca", str(place / "ca.pem")), ("--connections", str(SHARED))
        ways = {
            f"{OWN}, a client each": (OWN, ()),
            f"{OWN}, one of {SHARED} connections": (OWN, shared),
            f"{TLS}, a client each": (TLS, known),
            f"{TLS}, one of {SHARED} connections": (TLS, (*known, *shared)),
            f"{TLS}, gRPC's client each": (TLS, (*known, "--grpc")),
            f"{GRPC}, gRPC's client each": (GRPC, (*known, "--grpc")),
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(frame.arguments.rounds):
            for name, (to, more) in ways.items():
                runs[name].append(_ask(frame, place, addresses[to], *more))
    for name, found in runs.items():
        rate, p50_ms, p99_ms = (
            statistics.median(one[key] for one in found) for key in ("queries_per_second", "p50_ms", "p99_ms")
        )
        frame.add(name, rate, unit="1/s", note=f"p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    frame.finish()


if __name__ == "__main__":
    main()
