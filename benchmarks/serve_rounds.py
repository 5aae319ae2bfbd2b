"""Rounds in which every server is asked in every way, in turn."""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import serve_native
from benchmarks.frame import ROOT, Frame
from benchmarks.serve_servers import Running

K = 10
MODES = ["unary", "threads", "shared", "stream", "batch", "pipeline", "native", "paced"]
SHARED = 8
"""Connections of the one client of ours that callers share, beside callers with a client each."""
PACE = 0.75
"""Share of what the slowest server answered natively, at which all are asked in the mode ``paced``."""


@dataclass(slots=True)
class Bench:
    """What is measured with what."""

    frame: Frame
    place: Path
    servers: dict[str, Running]
    truth: list[set[str]]
    program: Path | None
    """The native client."""
    operator: str
    """Of pgvector, for the metric."""
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def arguments(self) -> argparse.Namespace:
        """The command line."""
        return self.frame.arguments

    @property
    def queries(self) -> Path:
        """File of the queries."""
        return self.place / "queries.npy"

    def python(self, name: str) -> str:
        """Returns the Python that has the client of a server."""
        return sys.executable if name == "vicinal" else str(self.arguments.peer_python)

    def load(self, name: str, more: tuple[str, ...], *, callers: int, effort: int) -> dict[str, Any]:
        """Runs Python callers, with more arguments of ``serve_load``."""
        running = self.servers[name]
        words = [self.python(name), "-m", "benchmarks.serve_load", "--peer", name, "--address", running.address]
        words += ["--queries", str(self.queries), "--callers", str(callers), *more]
        words += ["--seconds", str(self.arguments.seconds), "--effort", str(effort), "--neighbors", str(K)]
        # The peers' callers may run as nobody, like their server.
        with tempfile.TemporaryDirectory(dir=self.place) as folder:
            Path(folder).chmod(0o777)
            output = Path(folder, "result.json")
            words += ["--output", str(output)]
            subprocess.run([*running.prefix, *words], cwd=ROOT, check=True, capture_output=True, text=True)
            result: dict[str, Any] = json.loads(output.read_text())
        return result

    def native(self, name: str, *, callers: int, effort: int, rate: float = 0.0) -> dict[str, Any]:
        """Runs native callers; all together ask ``rate`` queries a second, 0 for as many as are answered."""
        assert self.program is not None
        records = self.place / f"{name}-{effort}.requests"
        if not records.exists():
            x_QD = np.load(self.queries)
            records.write_bytes(serve_native.requests(name, x_QD, neighbors=K, effort=effort, operator=self.operator))
        load = serve_native.Load(callers=callers, seconds=self.arguments.seconds, rate=rate)
        return serve_native.ask(self.program, name, self.servers[name], records, load)

    def recall(self, result: dict[str, Any]) -> float:
        """Returns recall@10 of what came back."""
        hits = [len(self.truth[int(place)] & {_row(name) for name in ids}) for place, ids in result["found"].items()]
        return float(np.mean(hits)) / K if hits else 0.0


def _row(name: str) -> str:
    # Ours are item-000017 or alike, the peers' are 17.
    return str(int(re.sub(r"\D", "", name) or -1))


def _modes(name: str, callers: int, *, last: bool) -> dict[str, tuple[str, ...]]:
    """Returns the ways in which Python callers ask a server: arguments of ``serve_load``."""
    modes: dict[str, tuple[str, ...]] = {"unary": ("--mode", "unary")}
    if name == "vicinal":
        modes["threads"] = ("--mode", "unary", "--threads")
        if callers > SHARED:
            modes["shared"] = ("--mode", "unary", "--connections", str(SHARED))
        if last:
            modes |= {"stream": ("--mode", "stream"), "batch": ("--mode", "batch")}
    if name == "redis" and last:
        modes["pipeline"] = ("--mode", "pipeline")
    return modes


def run_round(bench: Bench, efforts: dict[str, int], callers: int, *, last: bool) -> None:
    """Asks every server in every way that was asked for.

    Args:
        bench: the servers; receives the results.
        efforts: of each server.
        callers: at the same time.
        last: whether streams, batches and pipelines are measured too.
    """
    for name in bench.servers:
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            mode: partial(bench.load, name, words, callers=callers, effort=efforts[name])
            for mode, words in _modes(name, callers, last=last).items()
        }
        if bench.program is not None and name in serve_native.SPEAKS:
            runs["native"] = partial(bench.native, name, callers=callers, effort=efforts[name])
        for mode in (mode for mode in runs if mode in bench.arguments.modes):
            _run(bench, name, mode, runs[mode], callers)
    if "paced" in bench.arguments.modes:
        _paced(bench, efforts, callers)


def _paced(bench: Bench, efforts: dict[str, int], callers: int) -> None:
    """Asks the servers that have just been asked natively once more, all at the same rate that each can answer."""
    names = [name for name in bench.servers if f"{name} native" in bench.results]
    if len(names) > 1:
        rate = PACE * min(bench.results[f"{name} native"][-1]["queries_per_second"] for name in names)
        for name in names:
            run = partial(bench.native, name, callers=callers, effort=efforts[name], rate=rate)
            _run(bench, name, "paced", run, callers)


def _run(bench: Bench, name: str, mode: str, run: Callable[[], dict[str, Any]], callers: int) -> None:
    try:
        result = run()
    except subprocess.CalledProcessError as error:
        if name == "vicinal":
            raise
        bench.frame.peers[f"{name} {mode}, {callers} callers"] = f"failed: {error.stderr.strip()[-200:]}"
    else:
        bench.results.setdefault(f"{name} {mode}", []).append(result)
