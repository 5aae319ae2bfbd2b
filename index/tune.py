"""Chooses the kind of index by measuring: candidates are built on a sample and asked held-out queries.

Speed is carried over from the sample to the whole by how a kind scales: a scan with N, a graph about with
its square root, inverted lists hardly. The choice is the fastest that keeps to
recall, memory and latency; among those nearly as fast, the one that is built soonest. Those that come near
the fastest are measured again in turn, so that a noisy moment decides nothing.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from index import kind as kinds
from index.curve import EXACT_EFFORT, CurvePoint, effort_for
from index.engine import Engine
from index.evaluate import Queries, measure_curve, with_truth
from index.flat_codes import SCAN
from index.kind import Source
from vicinal.artifact import storage_guard
from vicinal.config import to_mapping
from vicinal.errors import FailedPreconditionError, InvalidArgumentError
from vicinal.types import F32Array, I64Array, JsonObject, Metric

SAMPLE_FLOATS = 1 << 23
"""Floats of the sample, 32 MiB: on a quarter of that graphs looked better beside lists than they are on the whole."""
_QUERY_COUNT = 400
_NEARLY_AS_FAST = 0.8
_PERHAPS_AS_FAST = 0.5
_ROUNDS = 5
_TOLD = (("link_count", "M"), ("shortlist", "shortlist"))
_GRAPH_GROWTH, _LISTS_GROWTH = 0.45, 0.15
"""A query takes (N / n) to that power as long at equal recall. Seen of graphs from 3 to 60 thousand vectors of 784 and
from 16 to 65 thousand of 128 dimensions: .31 to .57; of inverted lists there and to a million of 128: -.05 to .2."""
_MARGIN = 0.002
"""Recall wanted on the sample above the target: the whole is a little harder."""
Search = Callable[[F32Array, int], I64Array]
"""From queries and an effort to rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the index must fulfil."""

    recall: float = 0.99
    """Recall of the 10 nearest neighbours, in (0, 1]."""
    memory_bytes: int | None = None
    """Memory of the index with its vectors while it is searched, at most."""
    latency_ms: float | None = None
    """99th percentile of the latency of one query, at most, in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate, as measured on the sample and carried over to the whole."""

    kind: str
    """Kind of index."""
    params: JsonObject = field(default_factory=dict)
    """Its parameters on the whole."""
    curve: tuple[CurvePoint, ...] = ()
    """Measured on the sample."""
    effort: int = EXACT_EFFORT
    """Cheapest effort that reached the recall on the sample."""
    recall: float = 0.0
    """Recall at that effort."""
    queries_per_second: float = 0.0
    """Throughput expected of the whole."""
    p99_ms: float = 0.0
    """Latency expected of the whole, milliseconds."""
    build_s: float = 0.0
    """Seconds expected to build the whole."""
    memory_bytes: int = 0
    """Memory expected of the whole."""
    refused: str = ""
    """Why it is not chosen; empty where it fulfils every wish."""

    @property
    def label(self) -> str:
        """Its kind, with what tells it from others of that kind."""
        told = [f"{letter}={self.params[name]}" for name, letter in _TOLD if name in self.params]
        return " ".join([self.kind, *told])


def choose(
    vectors_ND: F32Array,
    *,
    metric: Metric,
    wishes: Wishes,
    seed: int,
    work: Path,
    progress: Callable[[str], None],
) -> tuple[Trial, tuple[Trial, ...]]:
    """Measures the candidates and chooses one.

    Args:
        vectors_ND: all embeddings.
        metric: how closeness is computed.
        wishes: what the index must fulfil.
        seed: seed of sample and queries.
        work: an existing directory for trial builds.
        progress: told what is being done.

    Returns:
        The choice and all trials.

    Raises:
        FailedPreconditionError: no kind fulfils every wish; says what the nearest would have given.
        StorageError: the disk is full or failed.
    """
    sample_ND, queries = _sample(vectors_ND, metric=metric, seed=seed)
    tried: list[_Tried] = []
    with ExitStack() as stack:
        for name, given in candidates(vectors_ND, wishes):
            progress(f"trying {name} {dict(given) or ''}".rstrip())
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work, prefix="trial-")))
            source = Source(directory=directory, vectors_ND=sample_ND, metric=metric, seed=seed)
            tried.append(_try(name, given, source, queries, len(vectors_ND), wishes))
        if all(one.trial.refused for one in tried):
            listed = "; ".join(f"{one.trial.kind}: {one.trial.refused}" for one in tried)
            raise FailedPreconditionError(
                f"no kind of index fulfils every wish ({listed}); allow more memory or less recall"
            )
        progress("measuring the fastest in turn")
        _measure_again(tried, queries)
    trials = tuple(one.trial for one in tried)
    near = _near(trials, _NEARLY_AS_FAST)
    return min(near, key=lambda trial: (trial.build_s, trial.memory_bytes)), trials


def _near(trials: Sequence[Trial], share: float) -> list[Trial]:
    """Returns the trials that fulfil every wish and have at least that share of the speed of the fastest."""
    good = [trial for trial in trials if not trial.refused]
    fastest = max(trial.queries_per_second for trial in good)
    return [trial for trial in good if trial.queries_per_second >= share * fastest]


def _measure_again(tried: "Sequence[_Tried]", queries: Queries) -> None:
    """Replaces the speed of those that may be the fastest by the median of several rounds, all in turn."""
    near = _near([one.trial for one in tried], _PERHAPS_AS_FAST)
    again = [one for one in tried if one.trial in near and one.search is not None]
    if len(again) < 2:
        return
    rounds = [[one.queries_per_second(queries.x_QD) for one in again] for _ in range(_ROUNDS)]
    for one, speeds in zip(again, zip(*rounds, strict=True), strict=True):
        one.trial = replace(one.trial, queries_per_second=statistics.median(speeds))


def candidates(vectors_ND: F32Array, wishes: Wishes) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns the kinds worth trying, with parameters: the coded ones only where memory is short.

    Args:
        vectors_ND: all embeddings.
        wishes: what the index must fulfil.
    """
    full: list[tuple[str, Mapping[str, Any]]] = [
        ("flat", {}),
        ("hnsw", {"link_count": 16}),
        ("hnsw", {"link_count": 32}),
        ("hnsw_f16", {"link_count": 16}),
        ("ivf_pq_fastscan", {"shortlist": 5}),
        ("ivf_pq_fastscan", {}),
        ("ivf_pq_fastscan", {"shortlist": 30}),
    ]
    if wishes.memory_bytes is None or vectors_ND.nbytes * 1.5 <= wishes.memory_bytes:
        return full
    scanned: list[tuple[str, Mapping[str, Any]]] = [("flat_f16", {}), ("flat_sq8", {})]
    return [*full, *scanned, ("hnsw_sq8", {"link_count": 16}), ("ivf_sq8", {}), ("ivf_pq", {})]


def _sample(vectors_ND: F32Array, *, metric: Metric, seed: int) -> tuple[F32Array, Queries]:
    """Draws a sample, and queries from the rest: items that no trial has seen."""
    rng = np.random.default_rng(seed)
    total, dimension = vectors_ND.shape
    query_count = max(1, min(_QUERY_COUNT, total // 10))
    size = max(1, min(total - query_count, SAMPLE_FLOATS // dimension))
    drawn = rng.choice(total, min(total, size + query_count), replace=False)
    sample_ND = np.ascontiguousarray(vectors_ND[np.sort(drawn[query_count:])])
    x_QD = np.ascontiguousarray(vectors_ND[drawn[:query_count]])
    return sample_ND, with_truth(x_QD, sample_ND, metric=metric, how="held out")


@dataclass(slots=True)
class _Tried:
    """A trial, with its index still open."""

    trial: Trial
    search: Search | None = None
    growth: float = 1.0
    """How many times slower a query is expected to be on the whole."""

    def queries_per_second(self, x_QD: F32Array) -> float:
        """Measures the throughput of a batch, and returns what is expected of the whole."""
        assert self.search is not None, "asked only where an index was built"
        start = time.perf_counter()
        self.search(x_QD, self.trial.effort)
        return len(x_QD) / max(time.perf_counter() - start, 1e-9) / self.growth


def _try(name: str, given: Mapping[str, Any], source: Source, queries: Queries, total: int, wishes: Wishes) -> _Tried:
    kind, sample_ND = kinds.load(name), source.vectors_ND
    sampled, dimension = sample_ND.shape
    try:
        whole = kinds.make_params(kind, dict(given), count=total, dimension=dimension)
        params = kinds.make_params(kind, dict(given), count=sampled, dimension=dimension)
    except InvalidArgumentError as error:
        return _Tried(Trial(kind=name, refused=error.message))
    memory = int(kind.bytes_per_vector(whole, dimension=dimension) * total)
    described = to_mapping(whole)
    if wishes.memory_bytes is not None and memory > wishes.memory_bytes:
        refused = f"needs {memory / 2**20:,.0f} MiB"
        return _Tried(Trial(kind=name, params=described, memory_bytes=memory, refused=refused))
    with storage_guard(source.directory), (source.directory / kinds.VECTORS_FILE).open("wb") as stream:
        np.save(stream, sample_ND)
    start = time.perf_counter()
    try:
        kind.build(source, params)
    except InvalidArgumentError as error:
        return _Tried(Trial(kind=name, params=described, memory_bytes=memory, refused=error.message))
    build_s = time.perf_counter() - start
    engine = Engine(source.directory, kind=name, params=to_mapping(params), metric=source.metric, vectors_ND=sample_ND)

    def search(x_QD: F32Array, effort: int) -> I64Array:
        return engine.search(x_QD, neighbor_count=queries.neighbor_count, effort=effort)[0]

    curve = measure_curve(search, queries, sample_ND, metric=source.metric, efforts=kind.efforts(params, count=sampled))
    growth = _growth(kind.effort_name, sampled, total)
    trial = Trial(kind=name, params=described, curve=curve, build_s=build_s * total / sampled, memory_bytes=memory)
    return _Tried(judge(trial, growth=growth, wishes=wishes), search=search, growth=growth)


def _growth(effort_name: str, sampled: int, total: int) -> float:
    """Returns how many times slower a query is expected to be on the whole."""
    if effort_name in {"", SCAN}:
        return total / sampled
    power = _LISTS_GROWTH if effort_name == "nprobe" else _GRAPH_GROWTH
    return float((total / sampled) ** power)


def judge(trial: Trial, *, growth: float, wishes: Wishes) -> Trial:
    """Returns the trial with its effort and speed, and why it is refused, if it is.

    Args:
        trial: measured on the sample.
        growth: how many times slower a query is expected to be on the whole.
        wishes: what the index must fulfil.
    """
    exact = [point for point in trial.curve if point.effort == EXACT_EFFORT]
    effort = EXACT_EFFORT if exact else effort_for(trial.curve, min(wishes.recall + _MARGIN, 0.9995))
    point = next((point for point in trial.curve if point.effort == effort), None)
    if point is None:
        best = max((point.recall for point in trial.curve), default=0.0)
        return replace(trial, refused=f"reaches recall {best:.4f}", recall=best)
    p99_ms = point.p99_us * growth / 1e3
    speed = point.queries_per_second / growth
    slow = wishes.latency_ms is not None and p99_ms > wishes.latency_ms
    return replace(
        trial,
        effort=effort,
        recall=point.recall,
        queries_per_second=speed,
        p99_ms=p99_ms,
        refused=f"needs {p99_ms:.2f} ms" if slow else "",
    )


def reason_for(chosen: Trial, trials: Sequence[Trial]) -> str:
    """Returns in a sentence why a trial was chosen."""
    rivals = [trial for trial in trials if trial is not chosen and not trial.refused]
    text = f"{chosen.queries_per_second:,.0f} queries/s expected at recall {chosen.recall:.4f}"
    if not rivals:
        return f"{text}; nothing else fulfils every wish"
    best = max(rivals, key=lambda trial: trial.queries_per_second)
    return f"{text}; next {best.label} with {best.queries_per_second:,.0f}, built in {best.build_s:.0f} s"
