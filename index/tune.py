"""Chooses the kind of index by measuring: candidates are built on a sample and asked held-out queries.

Speed is carried over from the sample to the whole by how a kind scales: a scan with N, inverted
lists with the square root, a graph with the logarithm. The choice is the fastest that keeps to
recall, memory and latency; among those nearly as fast, the one that is built soonest.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

SAMPLE_FLOATS = 1 << 21
_QUERY_COUNT = 400
_NEARLY_AS_FAST = 0.8
_TOLD = (("link_count", "M"), ("shortlist", "shortlist"))
_MARGIN = 0.002
"""Recall wanted on the sample above the target: the whole is a little harder."""


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
    trials = []
    for name, given in candidates(vectors_ND, wishes):
        progress(f"trying {name} {dict(given) or ''}".rstrip())
        with tempfile.TemporaryDirectory(dir=work, prefix="trial-") as directory:
            source = Source(directory=Path(directory), vectors_ND=sample_ND, metric=metric, seed=seed)
            trials.append(_try(name, given, source, queries, len(vectors_ND), wishes))
    good = [trial for trial in trials if not trial.refused]
    if not good:
        listed = "; ".join(f"{trial.kind}: {trial.refused}" for trial in trials)
        raise FailedPreconditionError(
            f"no kind of index fulfils every wish ({listed}); allow more memory or less recall"
        )
    fastest = max(trial.queries_per_second for trial in good)
    near = [trial for trial in good if trial.queries_per_second >= _NEARLY_AS_FAST * fastest]
    return min(near, key=lambda trial: (trial.build_s, trial.memory_bytes)), tuple(trials)


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


def _try(name: str, given: Mapping[str, Any], source: Source, queries: Queries, total: int, wishes: Wishes) -> Trial:
    kind = kinds.load(name)
    sampled, dimension = source.vectors_ND.shape
    try:
        whole = kinds.make_params(kind, dict(given), count=total, dimension=dimension)
        params = kinds.make_params(kind, dict(given), count=sampled, dimension=dimension)
    except InvalidArgumentError as error:
        return Trial(kind=name, refused=error.message)
    memory = int(kind.bytes_per_vector(whole, dimension=dimension) * total)
    described = to_mapping(whole)
    if wishes.memory_bytes is not None and memory > wishes.memory_bytes:
        return Trial(kind=name, params=described, memory_bytes=memory, refused=f"needs {memory / 2**20:,.0f} MiB")
    with storage_guard(source.directory), (source.directory / kinds.VECTORS_FILE).open("wb") as stream:
        np.save(stream, source.vectors_ND)
    start = time.perf_counter()
    kind.build(source, params)
    build_s = time.perf_counter() - start
    curve = _curve(name, kind, params, source, queries)
    growth = _growth(kind.effort_name, sampled, total)
    return judge(
        Trial(kind=name, params=described, curve=curve, build_s=build_s * total / sampled, memory_bytes=memory),
        growth=growth,
        wishes=wishes,
    )


def _curve(name: str, kind: kinds.Kind, params: Any, source: Source, queries: Queries) -> tuple[CurvePoint, ...]:
    engine = Engine(
        source.directory,
        kind=name,
        params=to_mapping(params),
        metric=source.metric,
        vectors_ND=source.vectors_ND,
    )

    def search(x_QD: F32Array, effort: int) -> I64Array:
        return engine.search(x_QD, neighbor_count=queries.neighbor_count, effort=effort)[0]

    efforts = kind.efforts(params, count=len(source.vectors_ND))
    return measure_curve(search, queries, source.vectors_ND, metric=source.metric, efforts=efforts)


def _growth(effort_name: str, sampled: int, total: int) -> float:
    """Returns how many times slower a query is expected to be on the whole."""
    if effort_name in {"", SCAN}:
        return total / sampled
    if effort_name == "nprobe":
        return math.sqrt(total / sampled)
    return math.log(max(total, 3)) / math.log(max(sampled, 3))


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
        return _replaced(trial, refused=f"reaches recall {best:.4f}", recall=best)
    p99_ms = point.p99_us * growth / 1e3
    speed = point.queries_per_second / growth
    slow = wishes.latency_ms is not None and p99_ms > wishes.latency_ms
    return _replaced(
        trial,
        effort=effort,
        recall=point.recall,
        queries_per_second=speed,
        p99_ms=p99_ms,
        refused=f"needs {p99_ms:.2f} ms" if slow else "",
    )


def _replaced(trial: Trial, **changes: Any) -> Trial:
    return Trial(**{name: changes.get(name, getattr(trial, name)) for name in Trial.__slots__})


def reason_for(chosen: Trial, trials: Sequence[Trial]) -> str:
    """Returns in a sentence why a trial was chosen."""
    rivals = [trial for trial in trials if trial is not chosen and not trial.refused]
    text = f"{chosen.queries_per_second:,.0f} queries/s expected at recall {chosen.recall:.4f}"
    if not rivals:
        return f"{text}; nothing else fulfils every wish"
    best = max(rivals, key=lambda trial: trial.queries_per_second)
    return f"{text}; next {best.label} with {best.queries_per_second:,.0f}, built in {best.build_s:.0f} s"
