"""The index that ``auto`` chooses beside hnswlib, usearch and ScaNN, at equal recall; and filtered search.

python -m benchmarks.bench_index                          Fashion-MNIST, 784-d, L2
python -m benchmarks.bench_index --data mixture           1,000,000 x 128, cosine, with filters
python -m benchmarks.bench_index --quick                  a few thousand made vectors, proves the script

For each target ``auto`` is asked for that recall, and every index at its lowest effort that reaches it on the queries;
throughput is a batch on all cores, latency one query a call. All are measured in turn.
"""

import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Frame, alternate, percentile
from benchmarks.index_data import FASHION, SLOTS, Data, fashion_mnist, mixture, put
from benchmarks.index_peers import PEERS, K, Peer
from index.build import BuildConfig, BuildReport, build
from index.evaluate import Queries, recall_of, with_truth
from index.filters import Condition
from index.publish import publish
from index.search import SearchOptions, search
from index.snapshot import Snapshot
from vicinal.store import Store
from vicinal.types import F32Array, I64Array

TARGETS = (0.95, 0.99, 0.998)
FILTERED_AT = 0.99
"""Recall of the snapshot on which filtered search is measured."""


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", choices=["fashion-mnist", "mixture"], default="fashion-mnist")
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--count", type=int, default=1_000_000, help="size of the mixture")
    parser.add_argument("--kind", default="auto", help="our kind of index")
    parser.add_argument("--recalls", type=float, nargs="*", default=list(TARGETS), help="recalls to compare at")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))


def _data(frame: Frame) -> Data:
    if frame.quick:
        return mixture(5000, 32, query_count=300, seed=frame.seed)
    if frame.arguments.data == "mixture":
        return mixture(frame.arguments.count, 128, query_count=2000, seed=frame.seed)
    return fashion_mnist(frame.arguments.folder)


def _ours(snapshot: Snapshot, build_s: float) -> Peer:
    def ask(x_QD: F32Array, effort: int) -> I64Array:
        return snapshot.search(x_QD, neighbor_count=K, effort=effort).rows_QK

    efforts = tuple(point.effort for point in snapshot.curve)
    return Peer(name=f"ours ({snapshot.kind})", build_s=build_s, efforts=efforts, batch=ask, one=ask)


def _lowest(peer: Peer, queries: Queries, data: Data, target: float) -> tuple[int, float] | None:
    for effort in peer.efforts:
        recall = recall_of(peer.batch(queries.x_QD, effort), data.x_ND, queries, metric=data.metric)
        if recall >= target:
            return effort, recall
    return None


def _throughput(peer: Peer, x_QD: F32Array, effort: int) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        for first in range(0, len(x_QD), 1000):
            peer.batch(x_QD[first : first + 1000], effort)
        return len(x_QD) / (time.perf_counter() - start)

    return run


def _p99(ask: Callable[[F32Array], Any], x_QD: F32Array) -> Callable[[], float]:
    def run() -> float:
        times = []
        for row in range(len(x_QD)):
            start = time.perf_counter()
            ask(x_QD[row : row + 1])
            times.append((time.perf_counter() - start) * 1e6)
        return percentile(times, 99)

    return run


def _compare(frame: Frame, data: Data, queries: Queries, target: float, peers: list[Peer]) -> None:
    """Adds the figures of one target; ours is the first of the peers."""
    rounds = 2 if frame.quick else frame.arguments.rounds
    chosen = {peer.name: found for peer in peers if (found := _lowest(peer, queries, data, target))}
    asked = [peer for peer in peers if peer.name in chosen]
    frame.config[f"efforts at {target}"] = {name: {"effort": e, "recall": r} for name, (e, r) in chosen.items()}
    if not asked or asked[0] is not peers[0]:
        frame.peers[f"ours at {target}"] = "not reached"
        return
    builds = {peer.name: [peer.build_s] for peer in asked}
    speeds = alternate({p.name: _throughput(p, queries.x_QD, chosen[p.name][0]) for p in asked}, rounds=rounds)
    ones = queries.x_QD[:500]
    singles = {peer.name: _p99(partial(_one, peer, chosen[peer.name][0]), ones) for peer in asked}
    p99s = alternate(singles, rounds=rounds)
    frame.config[f"queries/s at {target}"], frame.config[f"p99 us at {target}"] = speeds, p99s
    _add(frame, f"build for recall {target}", builds, asked, unit="s", goal="<= fastest peer", best=min)
    _add(frame, f"batch at recall {target}", speeds, asked, unit="1/s", goal=">= best peer", best=max)
    _add(frame, f"p99 of one query at recall {target}", p99s, asked, unit="us", goal="<= 1.2 x best", best=min)


def _one(peer: Peer, effort: int, x_1D: F32Array) -> object:
    return peer.one(x_1D, effort)


def _add(  # noqa: PLR0913 - what a figure is made of, by name
    frame: Frame, name: str, values: dict[str, list[float]], asked: list[Peer], *, unit: str, goal: str, best: Any
) -> None:
    medians = {peer.name: float(np.median(values[peer.name])) for peer in asked}
    ours, *others = (peer.name for peer in asked)
    peer = best(others, key=lambda other: medians[other]) if others else ""
    frame.add(
        name, medians[ours], unit=unit, peer=peer, peer_value=medians.get(peer), goal=goal, note=ours
    )  # fmt: skip


def _filters(frame: Frame, snapshot: Snapshot, data: Data) -> None:
    slots_N = np.asarray(snapshot.items.column("slot"))
    x_QD = data.x_QD[: 50 if frame.quick else 500]
    plain = _p99(lambda x: search(snapshot, x, SearchOptions(neighbor_count=K)), x_QD)
    for percent in (10.0, 1.0, 0.1, 0.01):
        where = Condition(column="slot", operator="less", values=(int(SLOTS * percent / 100),))
        options = SearchOptions(neighbor_count=K, filter=where)
        matching = np.flatnonzero(slots_N < SLOTS * percent / 100)
        if not len(matching):
            continue
        truth = snapshot.exact(x_QD, neighbor_count=K, rows_N=matching)
        found, plan = search(snapshot, x_QD, options)
        wanted = min(K, len(matching))
        assert (found.counts_Q == wanted).all(), "a filtered search returns as many as there are"
        recall = float((found.scores_QK[:, :wanted] >= truth.scores_QK[:, wanted - 1 :] - 1e-6).mean())
        filtered = _p99(partial(search, snapshot, options=options), x_QD)
        values = alternate({"plain": plain, "filtered": filtered}, rounds=2 if frame.quick else frame.arguments.rounds)
        medians = {name: float(np.median(times)) for name, times in values.items()}
        frame.add(f"recall under a {percent}% filter", recall, unit="fraction", goal=">= 0.99", note=plan.strategy)
        frame.add(
            f"p99 under a {percent}% filter", medians["filtered"], unit="us",
            peer="unfiltered", peer_value=medians["plain"], goal="<= 3 x",
        )  # fmt: skip


def _build(frame: Frame, store: Store, target: float) -> BuildReport:
    kind = "hnsw" if frame.quick and frame.arguments.kind == "auto" else frame.arguments.kind
    start = time.perf_counter()
    report = build(store, config=BuildConfig(kind=kind, recall=target, seed=frame.seed))
    publish(store)
    whole_s = time.perf_counter() - start
    frame.config[f"built for {target}"] = {"kind": report.kind, "params": report.params, "reason": report.reason}
    frame.add(
        f"choose, build, measure, verify, publish for recall {target}", whole_s, unit="s",
        goal="< 120 for 1M x 128", note=f"{report.kind}, {report.size_bytes / 2**20:,.0f} MiB",
    )  # fmt: skip
    return report


def main() -> None:
    """Builds ours and the peers, and asks them in turn."""
    frame = Frame.start("index", __doc__, add=_arguments)
    data = _data(frame)
    frame.what = f"index-{data.name}"
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "workspace")
        put(store, data, seed=frame.seed)
        reports = {target: _build(frame, store, target) for target in frame.arguments.recalls}
        peers = [PEERS[name](data) for name in frame.arguments.peers]
        queries = with_truth(data.x_QD[:2000], data.x_ND, metric=data.metric, how="held out")
        for target, report in reports.items():
            with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
                _compare(frame, data, queries, target, [_ours(snapshot, report.build_s), *peers])
                if target == FILTERED_AT:
                    _filters(frame, snapshot, data)
    frame.finish()


if __name__ == "__main__":
    main()
