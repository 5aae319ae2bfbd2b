"""Takes in new images: embeds what is new, builds beside what is served, gates, publishes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from index.build import BuildConfig, BuildReport, build
from index.coarse import Coarse
from index.delta import Delta
from index.drift import DriftReport, measure_drift
from index.embed import EmbedReport, embed
from index.gates import Gates
from index.plots import drift_plotter
from index.publish import PublishReport, publish
from index.retrain import Plan, Reembedded, Retrain, reembed
from index.rounds import alone
from index.unite import Changes, Folded, compare, unite
from vicinal.artifact import read_manifest, storage_guard
from vicinal.embeddings import Embeddings
from vicinal.errors import InvalidArgumentError, NoEncoderError
from vicinal.store import Store
from vicinal.types import JsonObject

_MOST_GROWTH = 0.3
"""New items for each old one from which the trained part of an index is taken as outgrown."""

Action = Literal["auto", "add", "rebuild", "retrain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshConfig:
    """How a refresh goes."""

    action: Action = "auto"
    """``add`` keeps the trained index and adds to it, ``rebuild`` trains it anew, ``retrain`` goes on training the
    encoder on old and new images and embeds all of them anew, ``auto`` decides between the first two."""
    allow_retrain: bool = False
    """Let ``auto`` choose ``retrain`` too, where the drift report advises it; otherwise it is only recommended."""
    bridge: bool = True
    """With ``retrain``, fit a bridge between both encoders before everything is embedded anew."""
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
    """``add``, ``rebuild``, ``retrain``, or ``none`` where the corpora held nothing new."""
    reason: str
    """Why."""
    embedded: EmbedReport | None
    """The embed job; None where no corpus was read."""
    changes: Changes
    """How the corpora had changed."""
    drift: DriftReport | None
    """How the new items differ from those that are served; None where there are none."""
    built: BuildReport | None
    """The new snapshot, if one was built."""
    published: PublishReport | None
    """The gates and the alias, if it was published."""
    reembedded: Reembedded | None = None
    """The new encoder and what it embedded, after ``retrain``."""
    recommended: str = ""
    """``retrain`` where the drift report advises it and it was not done; else empty."""
    seconds: float
    """Wall time of the whole."""


def refresh(
    store: Store,
    corpora: Sequence[str],
    *,
    config: RefreshConfig | None = None,
    retrain: Retrain | None = None,
    progress: Callable[[str], None] | None = None,
) -> RefreshReport:
    """Takes in what the corpora hold now; what is served changes only by a publish that passed its gates.

    Items of the active snapshot that the corpora do not mention stay, unless ``prune`` says otherwise.

    Args:
        store: the workspace; a snapshot is active.
        corpora: specs of the corpora to read; with none, only what came through the API is folded in.
        config: how. Default: ``RefreshConfig()``.
        retrain: makes a new encoder, such as ``index.retrain.pretrain_verb``; without it ``retrain`` is no choice.
        progress: told what is being done.

    Raises:
        BusyError: another refresh of this workspace is under way.
        FailedPreconditionError: a new encoder could not embed items that are served; see ``reembed``.
        InvalidArgumentError: an action that cannot be.
        NoActiveSnapshotError: nothing has been published yet.
        NoEncoderError: the active snapshot has no encoder to embed with.
        InvalidCorpusError: a corpus cannot be read, or holds nothing that could be embedded.
        GateFailedError: the new snapshot failed a gate; what is served has not changed.
        StorageError: the disk is full; what is served has not changed.
    """
    start = time.perf_counter()
    config = config or RefreshConfig()
    if retrain is None and (config.action == "retrain" or config.allow_retrain):
        raise InvalidArgumentError(
            "nothing was given that could retrain the encoder; use add or rebuild", field="action"
        )
    tell = progress or (lambda _: None)
    with alone(store), drift_plotter(tell) as draw:
        current = _open_current(store)
        embedded, fresh = _embed_new(store, current, corpora, tell)
        changes = compare(current.old, fresh, prune=config.prune, folded=current.folded)
        drift = _look_for_drift(store, current, fresh, changes, draw)
        action, reason = decide(changes, config, current.body, drift=drift)
        made = _Made()
        if action != "none":
            tell(f"{action}: {reason}")
            made = _make(store, current, fresh, changes, _How(action, config, retrain, tell))
    advised = drift is not None and drift.advice == "retrain" and action != "retrain"
    return RefreshReport(
        action=action,
        reason=reason,
        embedded=embedded,
        changes=changes,
        drift=drift,
        built=made.built,
        published=made.published,
        reembedded=made.reembedded,
        recommended="retrain" if advised else "",
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True, slots=True)
class _Current:
    """What is served when the refresh begins."""

    version: str
    body: JsonObject
    old: Embeddings
    folded: Folded
    delta: Delta


def _embed_new(
    store: Store, current: _Current, corpora: Sequence[str], tell: Callable[[str], None]
) -> tuple[EmbedReport | None, Embeddings]:
    if not corpora:
        return None, current.old
    if current.body["encoder"] is None:
        raise NoEncoderError(f"snapshots/{current.version} has no encoder, so new images cannot be embedded for it")
    tell("embedding what is new")
    encoder = str(current.body["encoder"]).removeprefix("encoders/")
    embedded = embed(store, corpora, encoder=encoder, base=current.old.version)
    assert embedded.version is not None, "a refresh runs on one rank"
    return embedded, Embeddings.open(store.path("embeddings", embedded.version))


@dataclass(frozen=True, slots=True)
class _How:
    action: str
    config: RefreshConfig
    retrain: Retrain | None
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Made:
    built: BuildReport | None = None
    published: PublishReport | None = None
    reembedded: Reembedded | None = None


def _open_current(store: Store) -> _Current:
    active = store.active().snapshot
    body = read_manifest(store.path("snapshots", active), kind="snapshot", version=1, verify=False).body
    old = Embeddings.open(store.path("embeddings", str(body["embeddings"]).removeprefix("embeddings/")))
    delta = Delta(store, fingerprint=old.fingerprint, dimension=old.dimension, metric=old.metric)
    return _Current(version=active, body=body, old=old, folded=_pending(delta, body), delta=delta)


def _make(store: Store, current: _Current, fresh: Embeddings, changes: Changes, how: _How) -> _Made:
    """Writes the embeddings, builds the snapshot beside what is served, and publishes it."""
    reembedded, extend = None, None
    if how.action == "retrain":
        assert how.retrain is not None, "checked at the start"
        if current.body["encoder"] is None:
            raise NoEncoderError(f"snapshots/{current.version} has no encoder that could be trained further")
        corpora = tuple(dict.fromkeys((*current.old.corpora, *fresh.corpora)))
        plan = Plan(
            old=current.old,
            fresh=fresh,
            delta=current.delta,
            corpora=corpora,
            prune=how.config.prune,
            bridge=how.config.bridge,
        )
        reembedded = reembed(store, plan, how.retrain, tell=how.tell)
        version = reembedded.version
    else:
        version = unite(store, current.old, fresh, changes, folded=current.folded)
        extend = store.path("snapshots", current.version) if how.action == "add" else None
    built = build(
        store,
        embeddings=version,
        config=how.config.build or _same_build(current.body, keep_params=how.action == "add"),
        parent=f"snapshots/{current.version}",
        extend=extend,
        progress=how.tell,
    )
    published = None
    if how.config.publish:
        published = publish(store, built.version, gates=how.config.gates, progress=how.tell)
    return _Made(built=built, published=published, reembedded=reembedded)


def _pending(delta: Delta, body: JsonObject) -> Folded:
    """Returns what came through the API since the snapshot that is served was built."""
    return Folded(
        number=delta.number,
        pending=delta.changes(after=int(body.get("delta_number", 0))),
        settled=delta.settled(),
    )


def _look_for_drift(
    store: Store, current: _Current, fresh: Embeddings, changes: Changes, draw: Callable[[Path], None]
) -> DriftReport | None:
    """Compares what came in with what is served, writes the report as JSON and has it drawn."""
    if not len(changes.added_rows):
        return None
    sources = fresh.items.column("source").take(changes.added_rows).to_pylist()
    drift = measure_drift(
        current.old.vectors_ND,
        np.ascontiguousarray(fresh.vectors_ND[changes.added_rows]),
        metric=current.old.metric,
        sources=[str(source) for source in sources],
        coarse=Coarse.open(store.path("snapshots", current.version)),
    )
    path = store.root / "reports" / f"drift-{fresh.version}.json"
    with storage_guard(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(drift.to_json(), indent=1) + "\n", encoding="utf-8")
    draw(path)
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
    if config.action == "retrain":
        return config.action, "asked for"
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
    if drift is not None and drift.advice == "retrain" and config.allow_retrain:
        return "retrain", why_not or drift.reasons[-1]
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
