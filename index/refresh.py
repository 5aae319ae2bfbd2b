"""Takes in new images: embeds what is new, builds beside what is served, gates, publishes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from index.build import BuildConfig, BuildReport, build
from index.coarse import Coarse
from index.delta import Delta
from index.drift import DriftReport, measure_drift
from index.embed import EmbedReport, embed
from index.plots import plot_drift
from index.publish import Gates, PublishReport, publish
from index.unite import Changes, Folded, compare, unite
from vicinal.artifact import read_manifest, storage_guard
from vicinal.embeddings import Embeddings
from vicinal.errors import InvalidArgumentError, NoEncoderError
from vicinal.store import Store
from vicinal.types import JsonObject

_MOST_GROWTH = 0.3
"""New items for each old one from which the trained part of an index is taken as outgrown."""

Action = Literal["auto", "add", "rebuild"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshConfig:
    """How a refresh goes."""

    action: Action = "auto"
    """``add`` keeps the trained index and adds to it, ``rebuild`` trains anew, ``auto`` decides."""
    prune: bool = False
    """Drop items that vanished from the corpora that are read."""
    publish: bool = True
    """Publish the snapshot when it passes the gates; else leave it beside what is served."""
    build: BuildConfig | None = None
    """What to build. Default: the kind and parameters of the active snapshot."""
    gates: Gates = field(default_factory=Gates)
    """What the new snapshot must fulfil."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshReport:
    """What a refresh did."""

    action: str
    """``add``, ``rebuild``, or ``none`` where the corpora held nothing new."""
    reason: str
    """Why."""
    embedded: EmbedReport
    """The embed job."""
    changes: Changes
    """How the corpora had changed."""
    drift: DriftReport | None
    """How the new items differ from those that are served; None where there are none."""
    built: BuildReport | None
    """The new snapshot, if one was built."""
    published: PublishReport | None
    """The gates and the alias, if it was published."""
    seconds: float
    """Wall time of the whole."""


def refresh(
    store: Store,
    corpora: Sequence[str],
    *,
    config: RefreshConfig | None = None,
    progress: Callable[[str], None] | None = None,
) -> RefreshReport:
    """Takes in what the corpora hold now; what is served changes only by a publish that passed its gates.

    Items of the active snapshot that the corpora do not mention stay, unless ``prune`` says otherwise.

    Args:
        store: the workspace; a snapshot is active.
        corpora: specs of the corpora to read, at least one.
        config: how. Default: ``RefreshConfig()``.
        progress: told what is being done.

    Raises:
        NoActiveSnapshotError: nothing has been published yet.
        NoEncoderError: the active snapshot has no encoder to embed with.
        InvalidCorpusError: a corpus cannot be read, or holds nothing that could be embedded.
        GateFailedError: the new snapshot failed a gate; what is served has not changed.
        StorageError: the disk is full; what is served has not changed.
    """
    start = time.perf_counter()
    config = config or RefreshConfig()
    tell = progress or (lambda _: None)
    if not corpora:
        raise InvalidArgumentError("no corpus was named; name at least one, such as a folder of images")
    active = store.active().snapshot
    body = read_manifest(store.path("snapshots", active), kind="snapshot", version=1, verify=False).body
    if body["encoder"] is None:
        raise NoEncoderError(f"snapshots/{active} has no encoder, so new images cannot be embedded for it")
    base = str(body["embeddings"]).removeprefix("embeddings/")
    tell("embedding what is new")
    embedded = embed(store, corpora, encoder=str(body["encoder"]).removeprefix("encoders/"), base=base)
    assert embedded.version is not None, "a refresh runs on one rank"
    old = Embeddings.open(store.path("embeddings", base))
    fresh = Embeddings.open(store.path("embeddings", embedded.version))
    folded = _pending(store, old, body)
    changes = compare(old, fresh, prune=config.prune, folded=folded)
    drift = _look_for_drift(store, active, old, fresh, changes)
    action, reason = decide(changes, config, body, drift=drift)
    built, published = None, None
    if action != "none":
        tell(f"{action}: {reason}")
        version = unite(store, old, fresh, changes, folded=folded)
        built = build(
            store,
            embeddings=version,
            config=config.build or _same_build(body, keep_params=action == "add"),
            parent=f"snapshots/{active}",
            extend=store.path("snapshots", active) if action == "add" else None,
            progress=progress,
        )
        if config.publish:
            published = publish(store, built.version, gates=config.gates, progress=progress)
    return RefreshReport(
        action=action,
        reason=reason,
        embedded=embedded,
        changes=changes,
        drift=drift,
        built=built,
        published=published,
        seconds=time.perf_counter() - start,
    )


def _pending(store: Store, old: Embeddings, body: JsonObject) -> Folded:
    """Returns what came through the API since the snapshot that is served was built."""
    delta = Delta(store, fingerprint=old.fingerprint, dimension=old.dimension, metric=old.metric)
    return Folded(
        number=delta.number,
        pending=delta.changes(after=int(body.get("delta_number", 0))),
        settled=frozenset(delta.changes()),
    )


def _look_for_drift(
    store: Store, active: str, old: Embeddings, fresh: Embeddings, changes: Changes
) -> DriftReport | None:
    """Compares what came in with what is served, and writes the report as JSON and PNG."""
    if not len(changes.added_rows):
        return None
    sources = fresh.items.column("source").take(changes.added_rows).to_pylist()
    drift = measure_drift(
        old.vectors_ND,
        np.ascontiguousarray(fresh.vectors_ND[changes.added_rows]),
        metric=old.metric,
        sources=[str(source) for source in sources],
        coarse=Coarse.open(store.path("snapshots", active)),
    )
    path = store.root / "reports" / f"drift-{fresh.version}.json"
    with storage_guard(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(drift.to_json(), indent=1) + "\n", encoding="utf-8")
    plot_drift(path.with_suffix(".png"), drift)
    return drift


def decide(
    changes: Changes, config: RefreshConfig, body: JsonObject, *, drift: DriftReport | None = None
) -> tuple[str, str]:
    """Returns what to do with what changed, and why.

    Args:
        changes: how the corpora had changed.
        config: what the user wants.
        body: manifest body of the active snapshot.
        drift: how the new items differ from those that are served.

    Raises:
        InvalidArgumentError: ``add`` was asked for and cannot be.
    """
    if changes.is_empty:
        return "none", "the corpora hold nothing new"
    why_not = _why_not_add(changes, config, body)
    if config.action == "add" and why_not:
        raise InvalidArgumentError(f"cannot add: {why_not}; use rebuild", field="action")
    if config.action != "auto":
        return config.action, "asked for"
    grown = (len(changes.added_rows) + changes.folded_count) / max(1, len(changes.kept_rows))
    if not why_not and grown > _MOST_GROWTH:
        why_not = f"{grown:.0%} more items than the index was trained on"
    if not why_not and drift is not None and drift.advice != "add":
        why_not = f"the new items have drifted ({drift.reasons[-1]})"
    return ("rebuild", why_not) if why_not else ("add", f"{grown:.1%} more items")


def _why_not_add(changes: Changes, config: RefreshConfig, body: JsonObject) -> str:
    if not changes.is_extension:
        return "items changed or were pruned"
    if config.build is not None and config.build.kind not in {"auto", body["kind"]}:
        return f"another kind is wanted: {config.build.kind}"
    return ""


def _same_build(body: JsonObject, *, keep_params: bool) -> BuildConfig:
    params = body["params"] if keep_params else {}
    return BuildConfig(kind=body["kind"], params=params, recall=body["target_recall"])
