"""The items of a snapshot and those that came after it, read as one table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vicinal.errors import ItemNotFoundError
from vicinal.item_table import CORE_COLUMNS, TYPES, Item, ItemTable
from vicinal.items import kind_of


class LiveItems:
    """The items of a snapshot and those added to it; reads as an ``ItemTable`` does.

    Deleted and replaced items keep their rows, and are not found by id.

    Args:
        table: the items of the snapshot.
        added: items that came after it, rows from ``table.count``.
        places: the changed items and their places in ``added``, -1 for the deleted.
        kinds: metadata columns that the table lacks, and their types.
    """

    def __init__(
        self, table: ItemTable, added: Sequence[Item], places: Mapping[str, int], kinds: Mapping[str, str]
    ) -> None:
        self.table = table
        self.added = added
        self.places = places
        self.kinds = kinds
        self.count = table.count + len(added)
        self._columns: dict[str, pa.ChunkedArray[Any]] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def columns(self) -> dict[str, str]:
        """Every column and its type."""
        return self.table.columns | dict(self.kinds)

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """Returns one column, of N + M values; a value of another type than its column is null."""
        if name not in self._columns:
            self._columns[name] = self._column(name)
        return self._columns[name]

    def _column(self, name: str) -> "pa.ChunkedArray[Any]":
        kind = self.columns.get(name)
        if kind is None:
            return self.table.column(name)
        if name in self.kinds:
            arrow: Any = TYPES[kind]
            before = pa.chunked_array([pa.nulls(self.table.count, arrow)])
        else:
            before = self.table.column(name)
        values = [getattr(item, name) if name in CORE_COLUMNS else item.metadata.get(name) for item in self.added]
        fitting = [value if fits(value, kind) else None for value in values]
        return pa.chunked_array([*before.chunks, pa.array(fitting, before.type)])

    def item_ids(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """Returns the ids of rows, in their order."""
        first = self.table.count
        old = iter(self.table.item_ids([row for row in rows if row < first]))
        return [next(old) if row < first else self.added[int(row) - first].item_id for row in rows]

    def find(self, item_id: str) -> int | None:
        """Returns the row of an id that counts, or None."""
        place = self.places.get(item_id)
        if place is None:
            return self.table.find(item_id)
        return None if place < 0 else self.table.count + place

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
        first = self.table.count
        return self.table.item(row) if row < first else self.added[row - first]


def fits(value: Any, kind: str) -> bool:
    """Returns whether a metadata value may stand in a column of a type."""
    found = kind_of(value)
    return found in {None, kind} or (found == "int" and kind == "float")
