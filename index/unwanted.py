"""What a search drops from the neighbours that it found: excluded rows, low scores, repeats, earlier pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from index.filters import Items, find_column
from vicinal.errors import InvalidArgumentError
from vicinal.types import BoolArray, I64Array, Neighbors


class FoundItems(Items, Protocol):
    """What is read of an item table, with the way from id to row."""

    def find(self, item_id: str) -> int | None:
        """Returns the row of an id, or None."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Limits how many neighbours one group may have."""

    column: str
    """A metadata or built-in column, or one that the caller brings; items without a value are one group."""
    neighbor_count: int = 1
    """Neighbours of each group at most, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Where the page before ended."""

    offset: int
    """Neighbours on all pages before."""
    score: float
    """Score of the last of them."""
    row: int
    """Row of the last of them."""


class Unwanted:
    """Decides which neighbours of each query are kept.

    Args:
        items: the table, for ids and columns.
        own_Q: a row for each query never to return, -1 for none.
        excluded_item_ids: items never to return; unknown ids are ignored.
        min_score: least score that is kept, None for no limit.
        page: keep only what comes behind it, None for the first page.
    """

    def __init__(
        self,
        items: FoundItems,
        *,
        own_Q: I64Array,
        excluded_item_ids: Sequence[str],
        min_score: float | None,
        page: Page | None,
    ) -> None:
        found = (items.find(item_id) for item_id in excluded_item_ids)
        self._items = items
        self._excluded = np.unique(np.array([row for row in found if row is not None], dtype=np.int64))
        self._own_Q = own_Q
        self._has_own = bool((own_Q >= 0).any())
        self._min_score = min_score
        self._page = page
        self._required_N: BoolArray | None = None
        self._groups: list[tuple[I64Array, int]] = []

    def require(self, mask_N: BoolArray) -> None:
        """Keeps only rows of a mask."""
        self._required_N = mask_N

    def limit_groups(self, numbers_N: I64Array, limit: int) -> None:
        """Keeps only the first so many rows of each number."""
        self._groups.append((numbers_N, limit))

    def group(self, grouping: Grouping, columns: Mapping[str, Any]) -> None:
        """Keeps only the first so many rows of each value of a column.

        Raises:
            NotFoundError: no such column; the message suggests one.
            InvalidArgumentError: a count out of range.
        """
        if grouping.neighbor_count < 1:
            raise InvalidArgumentError(
                f"grouping.neighbor_count is {grouping.neighbor_count}, wanted at least 1",
                field="options.grouping.neighbor_count",
            )
        column = find_column(grouping.column, self._items, columns)
        self.limit_groups(numbers_of(column), grouping.neighbor_count)

    def keep(self, chosen_q: I64Array, found: Neighbors) -> tuple[BoolArray, BoolArray]:
        """Returns which neighbours are kept, bool (Q, K), and to which queries further ones cannot help, bool (Q,).

        Args:
            chosen_q: places of the queries among all.
            found: their neighbours, best first.
        """
        rows_QK = found.rows_QK
        kept_QK: BoolArray = np.arange(rows_QK.shape[1])[None, :] < found.counts_Q[:, None]
        ended_Q = np.zeros(len(rows_QK), np.bool_)
        if self._min_score is not None:
            kept_QK &= found.scores_QK >= self._min_score
            ended_Q = kept_QK.sum(axis=1) < found.counts_Q
        if self._has_own:
            kept_QK &= rows_QK != self._own_Q[chosen_q][:, None]
        if len(self._excluded):
            kept_QK &= ~np.isin(rows_QK, self._excluded)
        if self._required_N is not None:
            kept_QK &= self._required_N[rows_QK]
        for numbers_N, limit in self._groups:
            limit_per_group(kept_QK, numbers_N[rows_QK], limit)
        if self._page is not None:
            score = np.float32(self._page.score)
            kept_QK &= (found.scores_QK < score) | ((found.scores_QK == score) & (rows_QK > self._page.row))
        return kept_QK, ended_Q


def numbers_of(column: Any) -> I64Array:
    """Returns a number for each value of an Arrow column, equal for equal values; nulls are one value."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = array.dictionary_encode(null_encoding="encode")
    numbers_N: I64Array = np.asarray(encoded.indices, dtype=np.int64)
    return numbers_N


def limit_per_group(kept_QK: BoolArray, groups_QK: I64Array, limit: int) -> None:
    """Keeps the first so many of each group in each row.

    Args:
        kept_QK: what is kept; changed in place.
        groups_QK: group of each, int64.
        limit: how many of a group are kept, at least 1.
    """
    for kept_K, groups_K in zip(kept_QK, groups_QK, strict=True):
        places = np.flatnonzero(kept_K)
        order = np.argsort(groups_K[places], kind="stable")
        sorted_groups = groups_K[places][order]
        # Rank within the group: distance to the place where the group starts.
        starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
        kept_K[places[order][np.arange(len(order)) - starts >= limit]] = False
