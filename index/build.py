"""Builds a snapshot from embeddings: links what is shared, builds the index, measures it, commits it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from index import kind as kinds
from index.assemble import collect
from index.coarse import LEAST_FLOATS, Coarse
from index.curve import EXACT_EFFORT, RECALL_NEIGHBOR_COUNT, CurvePoint, effort_for, expected_recall, from_json, to_json
from index.engine import Engine
from index.evaluate import measure_curve, perturbed_queries, with_truth
from index.filter_tuning import tune_candidates
from index.kind import Source
from index.plots import plot_trials
from index.snapshot import FORMAT_VERSION
from index.tune import Trial, Wishes, choose, reason_for
from vicinal.artifact import Manifest, read_manifest, storage_guard, write_manifest
from vicinal.config import to_mapping
from vicinal.embeddings import Embeddings
from vicinal.errors import InvalidArgumentError
from vicinal.store import Store
from vicinal.types import F32Array, I64Array, JsonObject, Metric

_FLAT_BYTES = 1 << 22
"""Up to 4 MiB of vectors a scan takes a fraction of a millisecond: nothing is gained by an index."""
_QUERY_COUNT = 1000
_FILTER_QUERY_COUNT = 100
_ALMOST_ALL = 0.9999
_MEASURED_BELOW = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """What to build."""

    kind: str = "auto"
    """A kind of ``index.kinds``, or ``auto``: chosen by size."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the kind."""
    recall: float = 0.99
    """Recall of the 10 nearest neighbours that the default effort must reach, in (0, 1]."""
    memory_bytes: int | None = None
    """``auto`` only: memory of the index with its vectors, at most, in bytes."""
    latency_ms: float | None = None
    """``auto`` only: 99th percentile of the latency of one query, at most, in milliseconds."""
    query_count: int = _QUERY_COUNT
    """Queries to measure with, at least 10."""
    seed: int = 0
    """Seed of clustering and of the queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What was built."""

    version: str
    """Version of the snapshot in the store."""
    kind: str
    """Its kind."""
    params: JsonObject
    """Its parameters."""
    count: int
    """Items in it."""
    curve: tuple[CurvePoint, ...]
    """Recall and latency by effort."""
    default_effort: int
    """Effort used where a query asks for none; 0 is exact search."""
    recall: float
    """Recall at the default effort."""
    size_bytes: int
    """Bytes of all its files."""
    build_s: float
    """Seconds to build the index, without measuring."""
    reason: str
    """Why this kind."""
    trials: tuple[Trial, ...] = ()
    """What was tried, where the kind was chosen by measuring."""


def build(
    store: Store,
    *,
    embeddings: str = "latest",
    config: BuildConfig | None = None,
    parent: str | None = None,
    extend: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> BuildReport:
    """Builds a snapshot and measures it against exact search; nothing that is served changes.

    Args:
        store: the workspace.
        embeddings: version of the embeddings.
        config: what to build. Default: ``BuildConfig()``.
        parent: snapshot that this one follows, for the record.
        extend: directory of an older snapshot of the same kind and parameters whose rows come first;
            its index is kept and the rest added, without training.
        progress: told what is being done.

    Raises:
        ArtifactNotFoundError: no such embeddings.
        InvalidArgumentError: no items, or a wrong kind or parameter.
        InvalidVectorError: a zero vector under cosine; its item is named.
        StorageError: the disk is full; nothing has changed.
    """
    config = config or BuildConfig()
    tell = progress or (lambda _: None)
    _check(config)
    source = Embeddings.open(store.path("embeddings", embeddings), verify=True)
    if source.count == 0:
        raise InvalidArgumentError(f"embeddings/{source.version} hold no items; embed a corpus that has images")
    with store.stage("snapshots") as staging:
        tell("collecting vectors and items")
        vectors_ND = collect(store, source, staging.path)
        choice = _choose(config, vectors_ND, source.metric, store.root / "work", tell)
        name, kind = choice.kind, kinds.load(choice.kind)
        params = kinds.make_params(kind, choice.params, count=source.count, dimension=source.dimension)
        part = Source(directory=staging.path, vectors_ND=vectors_ND, metric=source.metric, seed=config.seed)
        tell(f"{'building' if extend is None else 'extending'} {name}")
        start = time.perf_counter()
        if extend is None:
            kind.build(part, params)
        else:
            kind.extend(extend, part, params)
        build_s = time.perf_counter() - start
        tell("measuring against exact search")
        before = None if extend is None else _body_of(extend)
        curve, how = _measure(name, params, part, config, before)
        body: JsonObject = {
            **_describe(source),
            "kind": name,
            "params": to_mapping(params),
            "curve": to_json(curve),
            "default_effort": EXACT_EFFORT
            if not kind.effort_name
            else effort_for(curve, min(config.recall, _ALMOST_ALL)),
            "target_recall": config.recall,
            "measured": {"neighbor_count": RECALL_NEIGHBOR_COUNT, "query_count": config.query_count, "queries": how},
            "reason": choice.reason,
            "filter_candidates": _prepare_filters(part, extend, before, config),
            "parent": parent,
            "extended": extend is not None,
            "seed": config.seed,
            "build_s": round(build_s, 3),
        }
        manifest = write_manifest(staging.path, kind="snapshot", version=FORMAT_VERSION, body=body)
        version = staging.commit()
    if choice.chosen is not None:
        plot_trials(store.root / "reports" / f"build-{version}.png", choice.trials, choice.chosen, recall=config.recall)
    return _report(version, manifest, choice.trials)


def _prepare_filters(
    part: Source, extend: Path | None, before: JsonObject | None, config: BuildConfig
) -> list[tuple[float, int]]:
    """Writes the lists that filtered search walks, if the corpus is large, and measures how far it must walk."""
    if part.vectors_ND.size < LEAST_FLOATS:
        return []
    known = None if extend is None else Coarse.open(extend)
    if known is not None and before is not None:
        known.extend(part.vectors_ND).write(part.directory)
        return [(share, count) for share, count in before["filter_candidates"]]
    coarse = Coarse.train(part.vectors_ND, seed=config.seed)
    coarse.write(part.directory)
    x_QD = perturbed_queries(part.vectors_ND, metric=part.metric, count=_FILTER_QUERY_COUNT, seed=config.seed)
    return tune_candidates(x_QD, part.vectors_ND, metric=part.metric, coarse=coarse, seed=config.seed)


def _describe(source: Embeddings) -> JsonObject:
    return {
        "metric": source.metric.value,
        "dimension": source.dimension,
        "count": source.count,
        "fingerprint": source.fingerprint,
        "embeddings": f"embeddings/{source.version}",
        "encoder": f"encoders/{source.encoder.removeprefix('encoders/')}" if source.encoder else None,
        "corpora": list(source.corpora),
        "delta_number": int(source.manifest.body.get("delta_number", 0)),
    }


def _report(version: str, manifest: Manifest, trials: tuple[Trial, ...]) -> BuildReport:
    body = manifest.body
    curve = from_json(body["curve"])
    return BuildReport(
        version=version,
        kind=body["kind"],
        params=body["params"],
        count=body["count"],
        curve=curve,
        default_effort=body["default_effort"],
        recall=1.0 if body["default_effort"] == EXACT_EFFORT else expected_recall(curve, body["default_effort"]),
        size_bytes=sum(int(entry["bytes"]) for entry in manifest.files.values()),
        build_s=body["build_s"],
        reason=body["reason"],
        trials=trials,
    )


def _check(config: BuildConfig) -> None:
    if not 0 < config.recall <= 1:
        raise InvalidArgumentError(f"recall is {config.recall}, wanted above 0 and at most 1", field="recall")
    if config.query_count < 10:
        raise InvalidArgumentError(f"query_count is {config.query_count}, wanted at least 10", field="query_count")
    if config.kind == "auto" and config.params:
        raise InvalidArgumentError("index parameters were given without a kind; name one with --kind", field="kind")
    if config.kind != "auto" and (config.memory_bytes is not None or config.latency_ms is not None):
        raise InvalidArgumentError("memory and latency choose a kind; give them with --kind auto", field="kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    kind: str
    params: JsonObject
    reason: str
    chosen: Trial | None = None
    trials: tuple[Trial, ...] = ()


def _choose(
    config: BuildConfig, vectors_ND: F32Array, metric: Metric, work: Path, progress: Callable[[str], None]
) -> _Choice:
    if config.kind != "auto":
        return _Choice(kind=config.kind, params=dict(config.params), reason="asked for")
    limits = (config.memory_bytes, config.latency_ms)
    if vectors_ND.nbytes <= _FLAT_BYTES and limits == (None, None):
        size = vectors_ND.nbytes / 2**20
        return _Choice(kind="flat", params={}, reason=f"{size:.1f} MiB of vectors: a scan is fast, and exact")
    with storage_guard(work):
        work.mkdir(exist_ok=True)
    wishes = Wishes(recall=config.recall, memory_bytes=config.memory_bytes, latency_ms=config.latency_ms)
    chosen, trials = choose(vectors_ND, metric=metric, wishes=wishes, seed=config.seed, work=work, progress=progress)
    return _Choice(
        kind=chosen.kind, params=chosen.params, reason=reason_for(chosen, trials), chosen=chosen, trials=trials
    )


def _body_of(snapshot: Path) -> JsonObject:
    return read_manifest(snapshot, kind="snapshot", version=FORMAT_VERSION, verify=False).body


def _measure(
    name: str, params: Any, part: Source, config: BuildConfig, before: JsonObject | None
) -> tuple[tuple[CurvePoint, ...], str]:
    """Opens the index from its files, as a server will, and measures it; of an extended one only around its default."""
    x_ND, metric = part.vectors_ND, part.metric
    x_QD = perturbed_queries(x_ND, metric=metric, count=config.query_count, seed=config.seed)
    queries = with_truth(x_QD, x_ND, metric=metric, how=f"perturbed, seed {config.seed}")
    engine = Engine(part.directory, kind=name, params=to_mapping(params), metric=metric, vectors_ND=x_ND)

    def search(x_QD: F32Array, effort: int) -> I64Array:
        return engine.search(x_QD, neighbor_count=queries.neighbor_count, effort=effort)[0]

    efforts = kinds.load(name).efforts(params, count=len(x_ND))
    if before is None or before["default_effort"] == EXACT_EFFORT:
        return measure_curve(search, queries, x_ND, metric=metric, efforts=efforts), queries.how
    known = from_json(before["curve"])
    efforts = tuple(effort for effort in efforts if effort >= before["default_effort"] * _MEASURED_BELOW)
    enough = (1 + min(config.recall, _ALMOST_ALL)) / 2
    curve = measure_curve(search, queries, x_ND, metric=metric, efforts=efforts, enough=enough)
    lower = [point for point in known if point.effort < curve[0].effort and point.recall <= curve[0].recall]
    higher = [point for point in known if point.effort > curve[-1].effort and point.recall >= curve[-1].recall]
    carried = f"; below effort {curve[0].effort} and above {curve[-1].effort} as measured before items were added"
    return (*lower, *curve, *higher), queries.how + carried
