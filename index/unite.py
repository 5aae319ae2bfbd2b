"""Unites the embeddings that are served with freshly embedded ones: one row an item, old rows first."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from index.delta import Change
from vicinal.embeddings import Embeddings, EmbeddingsInfo, write_embeddings
from vicinal.errors import FingerprintMismatchError
from vicinal.items import Item, ItemRows, merge_columns, merge_kinds
from vicinal.store import Store
from vicinal.types import F32Array, I64Array

_BLOCK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How fresh embeddings differ from those that are served."""

    kept_rows: I64Array
    """Rows of the old embeddings that stay, ascending, int64."""
    added_rows: I64Array
    """Rows of the fresh embeddings that come behind them, ascending, int64."""
    new_count: int
    """Items whose id is new."""
    changed_count: int
    """Items whose id is known and whose content is another."""
    moved_count: int
    """New ids whose content a vanished id had."""
    vanished_count: int
    """Items of the old embeddings, of the corpora read, that the fresh ones lack."""
    folded_count: int = 0
    """Items that the API had added, replaced or deleted."""
    is_extension: bool
    """Whether every old row stays, so that an index can be extended."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return self.is_extension and not len(self.added_rows) and not self.folded_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Changes that came through the API, to be folded into the union."""

    number: int = 0
    """Number of the last record that is folded in."""
    pending: Mapping[str, Change] = field(default_factory=dict)
    """Last change of each item since the snapshot that is served."""
    settled: frozenset[str] = frozenset()
    """Ids that the API ever changed: there the corpora have no say."""

    @property
    def added(self) -> list[Change]:
        """The changes that are items."""
        return [change for change in self.pending.values() if change.item is not None]


def compare(old: Embeddings, fresh: Embeddings, *, prune: bool, folded: Folded | None = None) -> Changes:
    """Compares embeddings by item id and content.

    Args:
        old: what is served.
        fresh: what the corpora hold now; perhaps not all corpora that ``old`` came from.
        prune: drop vanished items of the sources that ``fresh`` covers.
        folded: changes that came through the API.

    Raises:
        FingerprintMismatchError: they come from different encoders.
    """
    if old.fingerprint != fresh.fingerprint:
        raise FingerprintMismatchError(
            f"embeddings/{old.version} and embeddings/{fresh.version} come from different encoders; "
            "embed all corpora anew with the new encoder and build a new snapshot"
        )
    old_ids, old_digests = _column(old, "item_id"), _column(old, "digest")
    fresh_ids, fresh_digests = _column(fresh, "item_id"), _column(fresh, "digest")
    digest_of = dict(zip(fresh_ids, fresh_digests, strict=True))
    known = dict(zip(old_ids, old_digests, strict=True))
    sources = set(_column(fresh, "source"))
    vanished_n = np.array(
        [
            item_id not in digest_of and source in sources
            for item_id, source in zip(old_ids, _column(old, "source"), strict=True)
        ],
        dtype=np.bool_,
    )
    changed_n = np.array(
        [digest_of.get(item_id, digest) != digest for item_id, digest in known.items()], dtype=np.bool_
    )
    folded = folded or Folded()
    settled_n = np.array([item_id in folded.settled for item_id in old_ids], dtype=np.bool_)
    pending_n = np.array([item_id in folded.pending for item_id in old_ids], dtype=np.bool_)
    gone_n = pending_n | (~settled_n & (changed_n | (vanished_n if prune else np.zeros_like(vanished_n))))
    added = [
        row
        for row, item_id in enumerate(fresh_ids)
        if known.get(item_id) != fresh_digests[row] and item_id not in folded.settled
    ]
    lost = {old_digests[row] for row in np.flatnonzero(vanished_n)}
    new_ids = [row for row in added if fresh_ids[row] not in known]
    return Changes(
        kept_rows=np.flatnonzero(~gone_n),
        added_rows=np.array(added, dtype=np.int64),
        new_count=len(new_ids),
        changed_count=int(changed_n.sum()),
        moved_count=sum(fresh_digests[row] in lost for row in new_ids),
        vanished_count=int(vanished_n.sum()),
        folded_count=len(folded.pending),
        is_extension=not gone_n.any(),
    )


def unite(store: Store, old: Embeddings, fresh: Embeddings, changes: Changes, *, folded: Folded | None = None) -> str:
    """Writes the union as a new version of the embeddings.

    Args:
        store: the workspace.
        old: what is served.
        fresh: what the corpora hold now.
        changes: what ``compare`` found.
        folded: changes that came through the API.

    Returns:
        The new version.

    Raises:
        StorageError: the disk is full; nothing has changed.
    """
    info = EmbeddingsInfo(
        dimension=old.dimension,
        metric=old.metric,
        fingerprint=old.fingerprint,
        encoder=old.encoder,
        corpora=tuple(dict.fromkeys((*old.corpora, *fresh.corpora))),
        details={"base": old.version, "fresh": fresh.version, "delta_number": folded.number if folded else 0},
    )
    kinds = dict(old.items.metadata_columns)
    merge_columns(kinds, fresh.items.metadata_columns)
    added = folded.added if folded else []
    for change in added:
        merge_kinds(kinds, {} if change.item is None else change.item.metadata)
    parts = ((old, changes.kept_rows), (fresh, changes.added_rows))
    with store.stage("embeddings") as staging:
        of_parts = (block for part, rows in parts for block in _blocks(part.vectors_ND, rows))
        of_changes = [change.vector_D[None, :] for change in added if change.vector_D is not None]
        vectors = itertools.chain(of_parts, of_changes)
        items: list[Item | ItemRows] = [ItemRows(part.items, rows_N) for part, rows_N in parts]
        items += [change.item for change in added if change.item is not None]
        write_embeddings(staging.path, vectors, items, info=info, kinds=kinds, quarantine=fresh.quarantine())
        return staging.commit()


def _column(embeddings: Embeddings, name: str) -> list[str]:
    return [str(value) for value in embeddings.items.column(name).to_pylist()]


def _blocks(vectors_ND: F32Array, rows_N: I64Array) -> Iterator[F32Array]:
    for start in range(0, len(rows_N), _BLOCK):
        yield vectors_ND[rows_N[start : start + _BLOCK]]
