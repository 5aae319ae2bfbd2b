"""The frame of every benchmark: command line, machine, figures, one JSON result a run.

A benchmark is a script ``benchmarks/bench_<what>.py`` that measures, adds figures and finishes:

    frame = Frame.start("index", __doc__)
    frame.add("hnsw recall@10", 0.991, unit="fraction", goal=">= 0.99")
    frame.add("hnsw queries", 22_000, unit="1/s", peer="hnswlib", peer_value=19_261)
    frame.finish()

``--quick`` measures a small form that proves the script and publishes nothing: its result goes to
``--output`` or nowhere. A full run writes ``benchmarks/results/<what>_<device>_<yyyymmdd>.json``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("torch", "torchvision", "faiss-gpu", "faiss-cpu", "grpcio", "protobuf", "numpy", "lightning", "pyarrow")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure."""

    value: float
    unit: str
    """Such as ``1/s``, ``s``, ``ms``, ``fraction``, ``%``, ``MiB``."""
    peer: str = ""
    """Who was measured beside us, in the same run."""
    peer_value: float | None = None
    ratio: float | None = None
    """value / peer_value."""
    goal: str = ""
    """What the issue asks for, such as ``>= 0.99``."""
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Frame:
    """A run of one benchmark."""

    what: str
    arguments: argparse.Namespace
    figures: dict[str, Figure] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """Everything that a reader needs to repeat the run: sizes, seeds, parameters."""
    peers: dict[str, str] = field(default_factory=dict)
    """Peers that were measured, with their versions, or the reason why not."""
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(
        cls, what: str, description: str | None, *, add: Callable[[argparse.ArgumentParser], None] | None = None
    ) -> "Frame":
        """Reads the command line: ``--quick``, ``--seed``, ``--output`` and what ``add`` adds."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="a small form that proves the script; not published")
        parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
        parser.add_argument("--output", type=Path, help="write the result here instead of benchmarks/results/")
        if add is not None:
            add(parser)
        arguments = parser.parse_args()
        told = {name: value for name, value in vars(arguments).items() if name != "output"}
        config = {name: _told(str(v)) if isinstance(v, Path | str) else v for name, v in told.items()}
        return cls(what=what, arguments=arguments, config=config)

    @property
    def quick(self) -> bool:
        """Whether only the small form is wanted."""
        return bool(self.arguments.quick)

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.arguments.seed)

    def add(  # noqa: PLR0913 - the fields of Figure, by name
        self,
        name: str,
        value: float,
        *,
        unit: str,
        peer: str = "",
        peer_value: float | None = None,
        goal: str = "",
        note: str = "",
    ) -> None:
        """Adds one figure; the ratio to the peer is worked out."""
        ratio = value / peer_value if peer_value else None
        self.figures[name] = Figure(
            value=value, unit=unit, peer=peer, peer_value=peer_value, ratio=ratio, goal=goal, note=note
        )

    def finish(self) -> Path | None:
        """Prints the table and writes the result; returns the file, if any."""
        self._print()
        result = {
            "what": self.what,
            "command": " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(_told, sys.argv[1:])]),
            "commit": _commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self.started, 1),
            "quick": self.quick,
            "machine": machine(),
            "versions": versions(),
            "peers": self.peers,
            "config": self.config,
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
        }
        path: Path | None = self.arguments.output
        if path is None and not self.quick:
            RESULTS.mkdir(parents=True, exist_ok=True)
            path = RESULTS / f"{self.what}_{device()}_{datetime.now(UTC):%Y%m%d}.json"
        if path is not None:
            path.write_text(json.dumps(result, indent=1, sort_keys=False) + "\n", encoding="utf-8")
            Console().print(f"written: {path}")
        return path

    def _print(self) -> None:
        table = Table(title=f"{self.what}{' (quick: proves the script, says nothing)' if self.quick else ''}")
        for column in ("figure", "value", "unit", "peer", "peer's value", "ratio", "goal", "note"):
            table.add_column(column, justify="right" if column in {"value", "peer's value", "ratio"} else "left")
        for name, f in self.figures.items():
            peer_value = "" if f.peer_value is None else f"{f.peer_value:,.4g}"
            ratio = "" if f.ratio is None else f"{f.ratio:.2f}"
            table.add_row(name, f"{f.value:,.4g}", f.unit, f.peer, peer_value, ratio, f.goal, f.note)
        Console(width=160).print(table)


def median_of(run: Callable[[], T], *, times: int, value: Callable[[T], float]) -> float:
    """Runs something several times and returns the median of a value of the results."""
    return statistics.median(value(run()) for _ in range(times))


def alternate(runs: dict[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Runs several measurements in turn, so that a noisy moment hits all; returns every value."""
    values: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            values[name].append(run())
    return values


def percentile(values: Sequence[float], q: float) -> float:
    """Returns the q-th percentile (0 to 100), nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))]


def _told(word: str) -> str:
    """Returns a word of the command line as others may read it: of a place on this machine, its name alone."""
    path = Path(word)
    return path.name if path.is_absolute() and not path.is_relative_to("/usr/share") else word


def device() -> str:
    """Returns ``cpu2`` for two cores, or the name of the first GPU."""
    try:
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name(0)).lower().replace(" ", "-")
    except ImportError:
        pass
    return f"cpu{os.cpu_count()}"


def machine() -> dict[str, Any]:
    """Returns what is known of this machine, without its name."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
        flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
        wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
        return {
            "cpu": model,
            "cores": os.cpu_count(),
            "flags": [f for f in wanted if f in flags],
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "device": device(),
            "python": platform.python_version(),
            "system": platform.system(),
        }
    return {"cpu": model, "cores": os.cpu_count(), "device": device(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Returns the versions of the packages that figures depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout

    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no").strip() else ""
    return git("rev-parse", "--short=12", "HEAD").strip() + changed
