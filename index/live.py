"""A snapshot with the changes that came after it: searched as one, row numbers behind the last are new items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from index.delta import Change
from index.exact import best_first, exact_search
from index.filters import Columns, Filter, matching
from index.selection import Selection
from index.snapshot import Snapshot
from index.unwanted import numbers_of
from vicinal.errors import ItemNotFoundError
from vicinal.item_table import CORE_COLUMNS, TYPES, Item, ItemTable
from vicinal.items import kind_of, merge_kinds
from vicinal.types import BoolArray, F32Array, I64Array, Neighbors


class LiveItems:
    """The items of a snapshot and those added to it; reads as an ``ItemTable`` does.

    Deleted items keep their rows, and are not found by id.

    Args:
        table: the items of the snapshot.
        added: items that came after it, rows from ``table.count``.
        hidden: ids whose row in the table no longer counts.
    """

    def __init__(self, table: ItemTable, added: Sequence[Item], hidden: frozenset[str]) -> None:
        self._table = table
        self._added = tuple(added)
        self._hidden = hidden
        self._rows = {item.item_id: table.count + place for place, item in enumerate(self._added)}
        self.count = table.count + len(self._added)

    def __len__(self) -> int:
        return self.count

    @property
    def columns(self) -> dict[str, str]:
        """Every column and its type."""
        known = dict(self._table.columns)
        fresh: dict[str, str] = {}
        for item in self._added:
            merge_kinds(fresh, {name: value for name, value in item.metadata.items() if name not in known})
        return known | fresh

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """Returns one column, of N + M values; a value of another type than its column is null."""
        kind = self.columns.get(name)
        if kind is None:
            return self._table.column(name)
        if name in self._table.columns:
            before = self._table.column(name)
        else:
            arrow: Any = TYPES[kind]
            before = pa.chunked_array([pa.nulls(self._table.count, arrow)])
        values = [getattr(item, name) if name in CORE_COLUMNS else item.metadata.get(name) for item in self._added]
        fitting = [value if _fits(value, kind) else None for value in values]
        return pa.chunked_array([*before.chunks, pa.array(fitting, before.type)])

    def item_ids(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """Returns the ids of rows, in their order."""
        first = self._table.count
        old = iter(self._table.item_ids([row for row in rows if row < first]))
        return [next(old) if row < first else self._added[int(row) - first].item_id for row in rows]

    def find(self, item_id: str) -> int | None:
        """Returns the row of an id that counts, or None."""
        if item_id in self._rows:
            return self._rows[item_id]
        return None if item_id in self._hidden else self._table.find(item_id)

    def row(self, item_id: str) -> int:
        """Returns the row of an id.

        Raises:
            ItemNotFoundError: no item has that id, or it was deleted.
        """
        found = self.find(item_id)
        if found is None:
            raise ItemNotFoundError(f"no item has the id {item_id[:200]!r}", metadata={"item_id": item_id[:200]})
        return found

    def item(self, row: int) -> Item:
        """Returns everything that is known of a row."""
        first = self._table.count
        return self._table.item(row) if row < first else self._added[row - first]


def _fits(value: Any, kind: str) -> bool:
    found = kind_of(value)
    return found in {None, kind} or (found == "int" and kind == "float")


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

    It offers what ``index.search.search`` needs of a ``Snapshot``; what it lacks is the snapshot's own.

    Args:
        snapshot: the snapshot.
        changes: last change of each item since, from ``Delta.changes``.
    """

    def __init__(self, snapshot: Snapshot, changes: Mapping[str, Change]) -> None:
        self.snapshot = snapshot
        found = (snapshot.items.find(item_id) for item_id in changes)
        rows = np.array([row for row in found if row is not None], dtype=np.int64)
        self._alive_N: BoolArray = np.ones(snapshot.count, np.bool_)
        self._alive_N[rows] = False
        self.hidden_count = len(rows)
        added = [change for change in changes.values() if change.item is not None]
        vectors = [change.vector_D for change in added if change.vector_D is not None]
        self._added_MD: F32Array = np.stack(vectors) if vectors else np.zeros((0, snapshot.dimension), np.float32)
        self.items = LiveItems(
            snapshot.items, [change.item for change in added if change.item is not None], frozenset(changes)
        )
        self.count = snapshot.count + len(self._added_MD)
        """Row numbers in use, with those of deleted items."""
        self.item_count = self.count - self.hidden_count
        """Items that can be found."""
        self.content_numbers = numbers_of(self.items.column("digest"))

    def __getattr__(self, name: str) -> Any:
        # What the changes do not touch: name, fingerprint, metric, curve, check_queries, effort_for and so on.
        return getattr(self.snapshot, name)

    def vectors_of(self, rows: I64Array) -> F32Array:
        """Returns the embeddings of rows, float32 (R, D)."""
        old = rows < self.snapshot.count
        x_RD = np.empty((len(rows), self.snapshot.dimension), np.float32)
        x_RD[old] = self.snapshot.vectors_ND[rows[old]]
        x_RD[~old] = self._added_MD[rows[~old] - self.snapshot.count]
        return x_RD

    def is_exact(self, neighbor_count: int, effort: int) -> bool:
        """Returns whether a search with that count and effort compares with every item."""
        return self.snapshot.is_exact(neighbor_count, effort)

    def search_checked(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> Neighbors:
        """Finds the nearest items, of the snapshot and of what came after it; see ``Snapshot``."""
        wanted = min(neighbor_count, self.item_count)
        count = min(wanted + self.hidden_count, self.snapshot.count)
        if count > 2 * wanted + 100:
            # Many are hidden: score the others, rather than fetch past all of those.
            alive = np.flatnonzero(self._alive_N).astype(np.int64)
            old = self.snapshot.exact(x_QD, neighbor_count=max(wanted, 1), rows_N=alive)
        else:
            old = self.snapshot.search_checked(x_QD, neighbor_count=max(count, 1), effort=effort)
        return self.merge(x_QD, old, neighbor_count=wanted, added=np.arange(len(self._added_MD)))

    def merge(self, x_QD: F32Array, old: Neighbors, *, neighbor_count: int, added: I64Array) -> Neighbors:
        """Merges neighbours from the snapshot with the added items.

        Args:
            x_QD: the queries.
            old: their neighbours in the snapshot, also hidden ones.
            neighbor_count: neighbours wanted of each.
            added: places of the added items that count.
        """
        rows_QK, scores_QK = exact_search(
            x_QD, self._added_MD, metric=self.snapshot.metric, neighbor_count=neighbor_count, rows_M=added
        )
        valid_QK = np.arange(old.rows_QK.shape[1])[None, :] < old.counts_Q[:, None]
        valid_QK &= self._alive_N[old.rows_QK]
        old_QK = np.where(valid_QK, old.rows_QK, -1)
        all_QK = np.concatenate([old_QK, rows_QK + self.snapshot.count], axis=1)
        merged_QK = np.concatenate([np.where(valid_QK, old.scores_QK, -np.inf), scores_QK], axis=1, dtype=np.float32)
        all_QK, merged_QK = best_first(all_QK, merged_QK)
        all_QK, merged_QK = all_QK[:, :neighbor_count], merged_QK[:, :neighbor_count]
        return Neighbors(rows_QK=np.maximum(all_QK, 0), scores_QK=merged_QK, counts_Q=(all_QK >= 0).sum(axis=1))

    def select(self, where: Filter, *, columns: Columns | None = None) -> LiveSelection:
        """Returns the items that match a filter; see ``Snapshot``."""
        mask_N = matching(where, self.items, columns=columns)
        mask_N[: self.snapshot.count] &= self._alive_N
        old = Selection(
            mask_N[: self.snapshot.count],
            vectors_ND=self.snapshot.vectors_ND,
            metric=self.snapshot.metric,
            coarse=self.snapshot.coarse,
        )
        return LiveSelection(old, mask_N, self)
