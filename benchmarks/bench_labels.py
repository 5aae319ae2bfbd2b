"""Label sets: acknowledged writes, kills, proposals, suggestions, dataset health.

python -m benchmarks.bench_labels             100 kills, 60,000 items, one million made vectors
python -m benchmarks.bench_labels --quick     3 kills, 2,000 items, proves the script
"""

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import ROOT, Frame, percentile
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from serving.fewshot import model
from serving.fewshot.space import centered
from serving.labels import health, strategies
from serving.labels.log import LabelLog
from serving.labels.records import Entry
from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, I64Array, Metric

BATCH = 100
CLASSES = 10


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--kills", type=int, default=100, help="writers to kill")
    parser.add_argument("--items", type=int, default=60_000, help="items of the corpus")
    parser.add_argument("--million", type=int, default=1_000_000, help="items of the large corpus; 0 leaves it out")
    parser.add_argument("--worker", nargs=2, metavar=("LOG", "NAME"), help="write until killed; used by the script")


def main() -> None:
    """Measures everything on one disk."""
    frame = Frame.start("labels", __doc__, add=_arguments)
    if frame.arguments.worker:
        _write_until_killed(Path(frame.arguments.worker[0]), frame.arguments.worker[1])
        return
    with tempfile.TemporaryDirectory(dir=frame.arguments.folder) as folder:
        _measure_writes(frame, Path(folder) / "writes", seconds=1 if frame.quick else 20)
        _measure_kills(frame, Path(folder) / "kills", count=3 if frame.quick else frame.arguments.kills)
        sizes = [2_000] if frame.quick else [frame.arguments.items, frame.arguments.million]
        for number, size in enumerate(size for size in sizes if size):
            _measure_corpus(frame, Path(folder) / f"corpus-{number}", size)
    frame.finish()


def _entries(writer: str, number: int) -> list[Entry]:
    return [
        Entry(item_id=f"{writer}/{number:06d}-{i:03d}.jpg", label=f"class {i % CLASSES}", author=writer)
        for i in range(BATCH)
    ]


def _measure_writes(frame: Frame, folder: Path, *, seconds: float) -> None:
    """One writer, then four at once, each waiting for its acknowledgement."""
    for writers in (1, 4):
        log = LabelLog(folder / f"{writers}.db")
        log.create_set("set")
        times: list[float] = []
        threads = [threading.Thread(target=_write, args=(log, f"w{n}", seconds, times)) for n in range(writers)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = BATCH * len(times) / (time.perf_counter() - started)
        goal = ">= 2,000" if writers == 1 else ""
        frame.add(f"acknowledged labels, {writers} writers", rate, unit="1/s", goal=goal, note=f"batches of {BATCH}")
        frame.add(f"acknowledgement p99, {writers} writers", 1000 * percentile(times, 99), unit="ms")
        log.close()


def _write(log: LabelLog, writer: str, seconds: float, times: list[float]) -> None:
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        started = time.perf_counter()
        log.put("set", _entries(writer, number), request_id=f"{writer}-{number}")
        times.append(time.perf_counter() - started)
        number += 1


def _write_until_killed(path: Path, writer: str) -> None:
    log, number = LabelLog(path), 0
    log.create_set(writer)
    while True:
        log.put(writer, _entries(writer, number), request_id=f"{writer}-{number}")
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 1


def _measure_kills(frame: Frame, folder: Path, *, count: int) -> None:
    """Each writer has a set of its own in one log; it is read after its kill, and all are read again at the end."""
    path, chance = folder / "labels.db", random.Random(frame.seed)
    LabelLog(path).close()
    acknowledged: dict[str, list[int]] = {}
    lost = torn = unreadable = 0
    for kill in range(count):
        writer = f"k{kill}"
        acknowledged[writer] = _kill_writer(path, writer, after_s=chance.random() / 3)
        try:
            lost_now, torn_now = _missing(path, {writer: acknowledged[writer]})
        except Exception:  # noqa: BLE001 - whatever it is, the log could not be read
            unreadable += 1
            continue
        lost, torn = lost + lost_now, torn + torn_now
    lost_later, torn_later = _missing(path, acknowledged)
    batches = sum(map(len, acknowledged.values()))
    frame.add("writers killed", count, unit="count", note=f"{batches:,} batches acknowledged")
    frame.add("acknowledged labels lost", max(lost, lost_later), unit="count", goal="0")
    frame.add("torn batches", max(torn, torn_later), unit="count", goal="0")
    frame.add("logs unreadable after a kill", unreadable, unit="count", goal="0")


def _kill_writer(path: Path, writer: str, *, after_s: float) -> list[int]:
    """Returns the numbers of the batches that were acknowledged to a writer before it was killed."""
    command = [sys.executable, "-m", "benchmarks.bench_labels", "--worker", str(path), writer]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    lines = [first, *process.communicate()[0].splitlines(keepends=True)]
    return [int(line) for line in lines if line.endswith("\n")]


def _missing(path: Path, acknowledged: dict[str, list[int]]) -> tuple[int, int]:
    """Returns how many acknowledged labels are not in the log, and how many sets hold a part of a batch."""
    log = LabelLog(path)
    lost = torn = 0
    for writer, numbers in acknowledged.items():
        held = {row.item_id for row in log.labels(writer)}
        lost += sum(entry.item_id not in held for n in numbers for entry in _entries(writer, n))
        torn += len(held) != BATCH * len(log.batches(writer, limit=10**9))
    log.close()
    return lost, torn


def _corpus(folder: Path, size: int, seed: int) -> tuple[Store, F32Array, I64Array]:
    rng = np.random.default_rng(seed)
    y_N = rng.integers(CLASSES, size=size)
    x_ND = rng.standard_normal((size, 128), dtype=np.float32)
    x_ND += rng.standard_normal((CLASSES * 20, 128)).astype(np.float32)[y_N * 20 + rng.integers(20, size=size)]
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    store, now = Store.create(folder), datetime.now(UTC)
    items = (
        Item(item_id=f"{i:08d}", digest=f"{i // 2 if i % 100 == 1 else i:064x}", source="made", path="", added_at=now)
        for i in range(size)
    )
    with store.stage("embeddings") as staging:
        info = EmbeddingsInfo(dimension=128, metric=Metric.COSINE)
        write_embeddings(staging.path, x_ND, list(items), info=info)
        staging.commit()
    return store, x_ND, y_N


def _measure_corpus(frame: Frame, folder: Path, size: int) -> None:
    store, x_ND, y_N = _corpus(folder, size, frame.seed)
    started = time.perf_counter()
    report = build(store, config=BuildConfig(kind="hnsw", recall=0.95, query_count=100))
    frame.config[f"snapshot of {size}"] = {"kind": "hnsw", "build_seconds": time.perf_counter() - started}
    labels = {f"{i:08d}": f"class {y}" for i, y in enumerate(y_N[: size // 2])}
    with Snapshot.open(store.path("snapshots", report.version), verify=False) as snapshot:
        started = time.perf_counter()
        found = health.check(snapshot, labels=labels)
        seconds = time.perf_counter() - started
    goal = "<= 60" if size == 60_000 else ""
    note = f"{len(found.exact_groups):,} groups, {len(found.suspects):,} suspects"
    frame.add(f"dataset health of {size:,} items", seconds, unit="s", goal=goal, note=note)
    _measure_labelling(frame, x_ND, y_N, size)


def _measure_labelling(frame: Frame, x_ND: F32Array, y_N: I64Array, size: int) -> None:
    some = np.arange(200)
    started = time.perf_counter()
    fitted = model.fit(model.make_support(x_ND[some], [f"class {y}" for y in y_N[some]]))
    for start in range(0, size, 8192):
        fitted.predict(x_ND[start : start + 8192])
    frame.add(f"classify {size:,} items for proposals", time.perf_counter() - started, unit="s")
    pool: Any = centered(x_ND[:20_000], x_ND.mean(axis=0))
    started = time.perf_counter()
    strategies.typical(pool, pool[:20], count=20, seed=0)
    frame.add(f"suggest 20 of {len(pool):,} candidates", time.perf_counter() - started, unit="s")


if __name__ == "__main__":
    main()
