"""What the workers of a server take in memory; run as python -m benchmarks.serve_memory WORKSPACE QUERIES.npy.

Proportional set size: a page that several processes share counts a part for each. All queries are asked first, over
several connections, so that every worker has touched what it searches.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vicinal.client import Client

_CONNECTIONS = 12


def tree(pid: int) -> list[int]:
    """Returns a process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(one for child in children for one in tree(int(child)))]


def pss_mib(pid: int) -> float:
    """Returns the proportional set size of a process and all that it started, MiB."""
    total_kib = 0
    for one in tree(pid):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


@contextmanager
def server(root: Path, processes: int, *settings: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Runs our server with settings such as ``limits.max_k=100``; gives its process and its address."""
    ready = root / "work" / f"ready-{time.monotonic_ns()}.json"
    words = [sys.executable, "-m", "vicinal", "serve", "-w", str(root), "--port", "0", "--ready-file", str(ready)]
    words += ["--processes", str(processes)]
    words += [word for setting in ("observe.log_level=error", *settings) for word in ("--set", setting)]
    process = subprocess.Popen(words)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("our server did not start")
            time.sleep(0.05)
        yield process, str(json.loads(ready.read_text(encoding="utf-8"))["address"])
    finally:
        process.terminate()
        process.wait()
        ready.unlink(missing_ok=True)


def measure(root: Path, x_QD: np.ndarray, *, processes: int) -> float:
    """Returns the memory of a server whose workers have answered, MiB."""
    with server(root, processes) as (process, address):
        for number in range(_CONNECTIONS):
            with Client(address) as client:
                for x_D in x_QD[number::_CONNECTIONS]:
                    client.search(x_D)
        return pss_mib(process.pid)


def main() -> None:
    """Measures one worker and two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("queries", type=Path)
    arguments = parser.parse_args()
    x_QD = np.load(arguments.queries, allow_pickle=False)
    one, two = (measure(arguments.workspace, x_QD, processes=processes) for processes in (1, 2))
    print(json.dumps({"one_mib": one, "two_mib": two, "ratio": two / one}))


if __name__ == "__main__":
    main()
