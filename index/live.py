"""A snapshot with the changes that came after it: searched as one, row numbers behind the last are new items."""

import functools
import threading
from collections import OrderedDict
from typing import TypeAlias

import numpy as np

from index.delta import Tail
from index.exact import best_first, exact_search
from index.filters import Columns, Filter, matching
from index.live_items import LiveItems
from index.selection import Selection
from index.snapshot import Snapshot
from index.unwanted import numbers_of
from vicinal.items import merge_kinds
from vicinal.types import BoolArray, F32Array, I64Array, Neighbors

_REMEMBERED_SELECTIONS = 8
_SPARE = 4
_GROWTH = 4


Searchable: TypeAlias = "Snapshot | LiveSnapshot"
"""What is searched: a snapshot, or one under the changes that came after it."""


class LiveSelection:
    """The rows that match a filter, of the snapshot and of what came after it."""

    def __init__(self, old: Selection, mask_N: BoolArray, live: "LiveSnapshot") -> None:
        self.mask_N = mask_N
        self._old = old
        self._live = live
        self._added = np.flatnonzero(mask_N[live.snapshot.count :]).astype(np.int64)

    @property
    def count(self) -> int:
        """Rows that match."""
        return self._old.count + len(self._added)

    @property
    def share(self) -> float:
        """Share of all rows that match."""
        return self.count / max(1, len(self.mask_N))

    def is_gathered(self, candidate_count: int) -> bool:
        """Returns whether a search scores every matching row."""
        return self._old.is_gathered(candidate_count)

    def search(self, x_QD: F32Array, *, neighbor_count: int, candidate_count: int) -> Neighbors:
        """Finds neighbours among the matching rows; see ``Selection``."""
        old = self._old.search(x_QD, neighbor_count=neighbor_count, candidate_count=candidate_count)
        return self._live.merge(x_QD, old, neighbor_count=neighbor_count, added=self._added)


class LiveSnapshot:
    """A snapshot under the changes that came after it; immutable, made anew after each change.

    It is searched and read as a ``Snapshot`` is.

    Args:
        snapshot: the snapshot.
        tail: the changes since, from ``Delta.tail(after=folded_number(snapshot))``.
        before: the same snapshot under fewer of them; then the tail may name only the others as changed.
    """

    def __init__(self, snapshot: Snapshot, tail: Tail, *, before: "LiveSnapshot | None" = None) -> None:
        self.snapshot = snapshot
        """The snapshot alone."""
        self.number = tail.number
        """Number of the last change."""
        self.epoch = tail.epoch
        """Of the log; see ``Tail``."""
        self.name, self.metric, self.dimension = snapshot.name, snapshot.metric, snapshot.dimension
        self.fingerprint, self.default_effort = snapshot.fingerprint, snapshot.default_effort
        self.filter_candidates = snapshot.filter_candidates
        self.count = snapshot.count + len(tail.items)
        """Row numbers in use, with those of deleted and replaced items."""
        self.added_count = len(tail.items)
        """Items that were added, with those that later changes replaced."""
        self._added_MD = tail.x_MD
        self.alive_N: BoolArray = np.zeros(self.count, np.bool_)
        """Which rows count."""
        places = _lay(self.alive_N, snapshot, tail, before)
        kinds = {} if before is None else dict(before.items.kinds)
        for item in tail.items[0 if before is None else len(before.items.added) :]:
            merge_kinds(
                kinds, {name: value for name, value in item.metadata.items() if name not in snapshot.items.columns}
            )
        self.items: LiveItems = LiveItems(snapshot.items, tail.items, places, kinds)
        self.hidden_count = snapshot.count - int(np.count_nonzero(self.alive_N[: snapshot.count]))
        """Items of the snapshot that were deleted or replaced."""
        self.item_count = int(np.count_nonzero(self.alive_N))
        """Items that can be found."""
        self._selections: OrderedDict[str, LiveSelection] = OrderedDict()
        self._selections_lock = threading.Lock()

    @functools.cached_property
    def content_numbers(self) -> I64Array:
        """A number for the content of each row, int64 (N + M,): equal for items with identical bytes."""
        return numbers_of(self.items.column("digest"))

    @functools.cached_property
    def _alive_places(self) -> I64Array | None:
        alive_M = self.alive_N[self.snapshot.count :]
        return None if alive_M.all() else np.flatnonzero(alive_M).astype(np.int64)

    def vectors_of(self, rows: I64Array) -> F32Array:
        """Returns the embeddings of rows, float32 (R, D)."""
        rows = np.asarray(rows, np.int64)
        old = rows < self.snapshot.count
        x_RD = np.empty((len(rows), self.dimension), np.float32)
        x_RD[old] = self.snapshot.vectors_ND[rows[old]]
        x_RD[~old] = self._added_MD[rows[~old] - self.snapshot.count]
        return x_RD

    def check_queries(self, x_QD: F32Array) -> F32Array:
        """Returns query vectors ready to be searched; see ``Snapshot``."""
        return self.snapshot.check_queries(x_QD)

    def effort_for(self, target_recall: float) -> int:
        """Returns the cheapest effort measured to reach a recall; see ``Snapshot``."""
        return self.snapshot.effort_for(target_recall)

    def expected_recall(self, effort: int) -> float:
        """Returns the recall that was measured at an effort; see ``Snapshot``."""
        return self.snapshot.expected_recall(effort)

    def is_exact(self, neighbor_count: int, effort: int) -> bool:
        """Returns whether a search with that count and effort compares with every item."""
        return self.snapshot.is_exact(neighbor_count, effort)

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int | None = None) -> Neighbors:
        """Finds the nearest items, of the snapshot and of what came after it; see ``Snapshot``."""
        effort = self.default_effort if effort is None else effort
        return self.search_checked(self.check_queries(x_QD), neighbor_count=neighbor_count, effort=effort)

    def search_checked(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> Neighbors:
        """Finds the nearest items, of the snapshot and of what came after it; see ``Snapshot``."""
        wanted = min(neighbor_count, self.item_count)
        old = self._search_old(x_QD, wanted=wanted, effort=effort)
        return self.merge(x_QD, old, neighbor_count=wanted, added=self._alive_places)

    def _search_old(self, x_QD: F32Array, *, wanted: int, effort: int) -> Neighbors:
        """Finds neighbours in the snapshot, with so many hidden ones among them that enough others are there."""
        limit = min(wanted + self.hidden_count, self.snapshot.count)
        enough = min(wanted, self.snapshot.count - self.hidden_count)
        expected = wanted * self.hidden_count // max(1, self.snapshot.count)
        count = min(limit, wanted + _SPARE * expected + (_SPARE if self.hidden_count else 0))
        found = self.snapshot.search_checked(x_QD, neighbor_count=max(count, 1), effort=effort)
        while count < limit:
            valid_QK = np.arange(found.rows_QK.shape[1])[None, :] < found.counts_Q[:, None]
            short_q = np.flatnonzero((self.alive_N[found.rows_QK] & valid_QK).sum(axis=1) < enough)
            if not len(short_q):
                break
            count = min(limit, count * _GROWTH)
            more = self.snapshot.search_checked(x_QD[short_q], neighbor_count=count, effort=effort)
            found = _widened(found, more, short_q)
        return found

    def merge(self, x_QD: F32Array, old: Neighbors, *, neighbor_count: int, added: I64Array | None) -> Neighbors:
        """Merges neighbours from the snapshot with the added items.

        Args:
            x_QD: the queries.
            old: their neighbours in the snapshot, also hidden ones.
            neighbor_count: neighbours wanted of each.
            added: places of the added items that count, None for all.
        """
        rows_QK, scores_QK = exact_search(
            x_QD, self._added_MD, metric=self.metric, neighbor_count=neighbor_count, rows_M=added
        )
        valid_QK = np.arange(old.rows_QK.shape[1])[None, :] < old.counts_Q[:, None]
        valid_QK &= self.alive_N[old.rows_QK]
        old_QK = np.where(valid_QK, old.rows_QK, -1)
        all_QK = np.concatenate([old_QK, rows_QK + self.snapshot.count], axis=1)
        merged_QK = np.concatenate([np.where(valid_QK, old.scores_QK, -np.inf), scores_QK], axis=1, dtype=np.float32)
        all_QK, merged_QK = best_first(all_QK, merged_QK)
        all_QK, merged_QK = all_QK[:, :neighbor_count], merged_QK[:, :neighbor_count]
        return Neighbors(rows_QK=np.maximum(all_QK, 0), scores_QK=merged_QK, counts_Q=(all_QK >= 0).sum(axis=1))

    def select(self, where: Filter, *, columns: Columns | None = None) -> LiveSelection:
        """Returns the items that match a filter; see ``Snapshot``."""
        key = repr(where)
        with self._selections_lock:
            known = None if columns else self._selections.get(key)
        if known is not None:
            return known
        mask_N = matching(where, self.items, columns=columns) & self.alive_N
        old = Selection(
            mask_N[: self.snapshot.count],
            vectors_ND=self.snapshot.vectors_ND,
            metric=self.metric,
            coarse=self.snapshot.coarse,
        )
        selection = LiveSelection(old, mask_N, self)
        if not columns:
            with self._selections_lock:
                self._selections[key] = selection
                while len(self._selections) > _REMEMBERED_SELECTIONS:
                    self._selections.popitem(last=False)
        return selection


def folded_number(snapshot: Snapshot) -> int:
    """Returns the number of the last change that a snapshot holds; later ones are to be laid over it."""
    return int(snapshot.manifest.body.get("delta_number", 0))


def pending_count(snapshot: Searchable) -> int:
    """Returns how many items were added, replaced or deleted since a snapshot was built."""
    return len(snapshot.items.places) if isinstance(snapshot, LiveSnapshot) else 0


def alive_rows(snapshot: Searchable) -> BoolArray:
    """Returns which rows hold items that can be found, bool (N,); the caller may change it."""
    return snapshot.alive_N.copy() if isinstance(snapshot, LiveSnapshot) else np.ones(snapshot.count, np.bool_)


def _widened(found: Neighbors, more: Neighbors, places_q: I64Array) -> Neighbors:
    """Returns neighbours in which those of some queries are replaced by longer lists."""
    shape = (len(found.rows_QK), more.rows_QK.shape[1])
    rows_QK, scores_QK = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    width = found.rows_QK.shape[1]
    rows_QK[:, :width], scores_QK[:, :width] = found.rows_QK, found.scores_QK
    counts_Q = found.counts_Q.copy()
    rows_QK[places_q], scores_QK[places_q], counts_Q[places_q] = more.rows_QK, more.scores_QK, more.counts_Q
    return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=counts_Q)


def _lay(alive_N: BoolArray, snapshot: Snapshot, tail: Tail, before: LiveSnapshot | None) -> dict[str, int]:
    """Marks the rows that count; returns the place of each changed item among the added, -1 for the deleted."""
    alive_N[: snapshot.count if before is None else before.count] = True if before is None else before.alive_N
    places = {} if before is None else dict(before.items.places)
    rows = snapshot.items.rows(list(tail.changed))
    alive_N[rows[rows >= 0]] = False
    for item_id, place in tail.changed.items():
        earlier = places.get(item_id, -1)
        if earlier >= 0:
            alive_N[snapshot.count + earlier] = False
        if place >= 0:
            alive_N[snapshot.count + place] = True
        places[item_id] = place
    return places
