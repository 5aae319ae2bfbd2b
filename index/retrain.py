"""A refresh with a new encoder: training goes on where the active one ended, and every item is embedded anew.

This stage does not train. It is handed a function that does, such as ``pretrain_verb``, which runs the
verb ``pretrain`` as a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.bridge_pairs import Built, build_bridge
from index.delta import Delta
from index.embed import EmbedReport, embed
from vicinal.artifact import canonical_digest, read_manifest, storage_guard
from vicinal.corpus import open_corpora
from vicinal.embeddings import Embeddings, EmbeddingsInfo, write_embeddings
from vicinal.errors import FailedPreconditionError, FingerprintMismatchError, InvalidArgumentError
from vicinal.items import Item
from vicinal.store import Store
from vicinal.verbs import run_verb

Retrain = Callable[[Sequence[str], str], str]
"""From the specs of all corpora, and the version of the encoder to go on from, to the version of a new one."""

_BLOCK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedded:
    """What a new encoder made of the items."""

    version: str
    """Version of the embeddings."""
    encoder: str
    """Version of the new encoder."""
    embedded: EmbedReport
    """The embed job."""
    lost_count: int
    """Items that no corpus holds any more, and that are dropped."""
    bridge: Built | None
    """The bridge between both encoders, if one was fitted."""


def pretrain_verb(store: Store, *, minutes: float, settings: Sequence[str] = ()) -> Retrain:
    """Returns a ``Retrain`` that runs ``vicinal pretrain --weights ENCODER`` on all corpora.

    Args:
        store: the workspace.
        minutes: budget of the training.
        settings: further settings of it, each ``key=value``.
    """

    def retrain(corpora: Sequence[str], encoder: str) -> str:
        spec = corpora[0] if len(corpora) == 1 else str(_write_list(store, corpora))
        metadata = read_manifest(store.path("encoders", encoder), kind="encoder", version=1, verify=False).body[
            "metadata"
        ]
        method = metadata.get("config", {}).get("method")
        words = ["pretrain", spec, "--weights", encoder, "--minutes", str(minutes)]
        words += ["--method", str(method)] if method else []
        words += [word for setting in settings for word in ("--set", setting)]
        return str(run_verb(*words, workspace=store.root)["encoder"])

    return retrain


def _write_list(store: Store, corpora: Sequence[str]) -> Path:
    path = store.root / "work" / f"retrain-{canonical_digest(list(corpora))[:16]}.corpora"
    with storage_guard(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(corpora) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be embedded anew."""

    old: Embeddings
    """What is served."""
    fresh: Embeddings
    """What the corpora of this refresh hold, embedded by the active encoder."""
    delta: Delta
    """What came through the API."""
    corpora: tuple[str, ...]
    """Specs of every corpus, those of the served snapshot first."""
    prune: bool
    """Drop what cannot be embedded anew."""
    bridge: bool
    """Fit a bridge between both encoders first, so that each one's vectors find items of the other meanwhile."""


def lost_items(plan: Plan) -> list[str]:
    """Returns the ids of served items that cannot be embedded anew: no corpus has their image.

    Args:
        plan: what is to be embedded.

    Raises:
        InvalidCorpusError: a corpus cannot be read.
    """
    there: set[str] = set()
    for corpus in open_corpora(plan.corpora):
        with corpus:
            there.update(item.item_id for item in corpus)
    deleted, pending = plan.delta.deleted(), plan.delta.changes()
    known = dict(zip(_column(plan.old, "item_id"), _column(plan.old, "digest"), strict=True))
    served = known | {name: change.item.digest for name, change in pending.items() if change.item is not None}
    given = dict(zip(_column(plan.fresh, "item_id"), _column(plan.fresh, "digest"), strict=True))
    # Where the API had the last word, only the very content that it gave will do.
    replaced = {name for name in plan.delta.settled() if given.get(name) != served.get(name)}
    return sorted({name for name in served if name not in there or name in replaced} - deleted)


def reembed(store: Store, plan: Plan, retrain: Retrain, *, tell: Callable[[str], None]) -> Reembedded:
    """Goes on training, and embeds every item with what comes of it; nothing that is served changes.

    Args:
        store: the workspace.
        plan: what is to be embedded.
        retrain: makes the new encoder.
        tell: told what is being done.

    Raises:
        FailedPreconditionError: served items would be lost and ``prune`` is not set; or the training failed.
        InvalidCorpusError: a corpus of the served snapshot cannot be read any more.
        StorageError: the disk is full; nothing that is served has changed.
    """
    lost = _check_lost(plan)
    note = store.root / "work" / f"retrained-{canonical_digest([plan.old.fingerprint, *plan.corpora])[:16]}"
    encoder = _train(store, plan, retrain, note, tell)
    bridge = _bridge(store, plan, encoder, tell)
    tell(f"embedding everything with encoders/{encoder}")
    embedded = embed(store, plan.corpora, encoder=encoder)
    assert embedded.version is not None, "a refresh runs on one rank"
    # What came through the API while the training ran counts too.
    if plan.delta.catch_up():
        lost = _check_lost(plan)
    version = _carry_over(store, plan, Embeddings.open(store.path("embeddings", embedded.version)))
    note.unlink(missing_ok=True)
    return Reembedded(version=version, encoder=encoder, embedded=embedded, lost_count=len(lost), bridge=bridge)


def _train(store: Store, plan: Plan, retrain: Retrain, note: Path, tell: Callable[[str], None]) -> str:
    """Returns the new encoder: one that a refresh of the same had trained before it was cut short, or another."""
    known = note.read_text(encoding="utf-8") if note.is_file() else ""
    if known in store.versions("encoders"):
        tell(f"going on with encoders/{known}, trained by a refresh that was cut short; remove {note} to train anew")
        return known
    tell("training goes on from the active encoder")
    encoder = store.path("encoders", retrain(plan.corpora, str(plan.old.encoder).removeprefix("encoders/"))).name
    with storage_guard(note):
        note.write_text(encoder, encoding="utf-8")
    return encoder


def _bridge(store: Store, plan: Plan, encoder: str, tell: Callable[[str], None]) -> Built | None:
    if not plan.bridge:
        return None
    tell("fitting a bridge between the two encoders")
    try:
        return build_bridge(store, plan.old, encoder, corpora=plan.corpora)
    except (InvalidArgumentError, FingerprintMismatchError) as error:
        # A convenience: without it queries wait for their own snapshot.
        tell(f"no bridge: {error.message}")
        return None


def _check_lost(plan: Plan) -> list[str]:
    lost = lost_items(plan)
    if lost and not plan.prune:
        raise FailedPreconditionError(
            f"{len(lost)} served items, such as {lost[0]!r}, came through the API or are gone from their corpora, and "
            "cannot be embedded with a new encoder; name corpora that hold them, or drop them with --prune"
        )
    return lost


def _carry_over(store: Store, plan: Plan, made: Embeddings) -> str:
    """Writes the new embeddings without what was deleted, each item with the time at which it first came."""
    gone = plan.delta.deleted()
    space = Delta(store, fingerprint=made.fingerprint, dimension=made.dimension, metric=made.metric)
    if gone:
        space.delete(sorted(gone))
    rows = np.array([row for row, name in enumerate(_column(made, "item_id")) if name not in gone], dtype=np.int64)
    blocks = (made.vectors_ND[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
    info = EmbeddingsInfo(
        dimension=made.dimension,
        metric=made.metric,
        fingerprint=made.fingerprint,
        encoder=made.encoder,
        corpora=plan.corpora,
        details={"fresh": made.version, "delta_number": space.number},
    )
    with store.stage("embeddings") as staging:
        kinds = dict(made.items.metadata_columns)
        items = _dated(plan.old, made, rows.tolist())
        write_embeddings(staging.path, blocks, items, info=info, kinds=kinds, quarantine=made.quarantine())
        return staging.commit()


def _dated(old: Embeddings, made: Embeddings, rows: Sequence[int]) -> Iterator[Item]:
    for row in rows:
        item = made.items.item(row)
        known = old.items.find(item.item_id)
        before = None if known is None else old.items.item(known)
        yield replace(item, added_at=before.added_at) if before and before.digest == item.digest else item


def _column(embeddings: Embeddings, name: str) -> list[str]:
    return [str(value) for value in embeddings.items.column(name).to_pylist()]
