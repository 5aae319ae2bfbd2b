"""Items, their table and how it is written: what is known of each row of an artifact.

Written row after row in bounded memory; a table is complete when its writer has closed.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vicinal.artifact import storage_guard
from vicinal.corpus import MAX_ID_BYTES, MetadataValue
from vicinal.errors import InvalidArgumentError, InvalidCorpusError
from vicinal.item_table import (
    BATCH_ROWS,
    CORE_COLUMNS,
    ITEMS,
    LOOKUP,
    TYPES,
    Item,
    ItemTable,
    U64Array,
    hash_ids,
    plain,
)
from vicinal.types import I64Array

__all__ = [
    "CORE_COLUMNS",
    "ITEMS",
    "LOOKUP",
    "TYPES",
    "Item",
    "ItemRows",
    "ItemTable",
    "ItemWriter",
    "kind_of",
    "merge_columns",
    "merge_kinds",
    "write_items",
]


def kind_of(value: MetadataValue) -> str | None:
    """Returns the type of a metadata value, a key of ``TYPES``, or None for None.

    Raises:
        InvalidArgumentError: a value of another type.
    """
    if value is None:
        return None
    for known, kind in ((bool, "bool"), (int, "int"), (float, "float"), (str, "string"), (datetime, "time")):
        if isinstance(value, known):
            return kind
    raise InvalidArgumentError(f"metadata may be bool, int, float, str, datetime or None, got {type(value).__name__}")


def merge_kinds(kinds: dict[str, str], metadata: Mapping[str, MetadataValue]) -> None:
    """Widens the column types of a table so that they hold one more item's metadata.

    int and float make float; any other two types make string.

    Args:
        kinds: type of each column so far; changed in place.
        metadata: values of one more item.
    """
    found = {name: kind_of(value) for name, value in metadata.items()}
    merge_columns(kinds, {name: kind for name, kind in found.items() if kind is not None})


def merge_columns(kinds: dict[str, str], columns: Mapping[str, str]) -> None:
    """Widens the column types of a table so that they hold those of another, as ``merge_kinds`` does.

    Args:
        kinds: type of each column so far; changed in place.
        columns: types of the other's.
    """
    for name, kind in columns.items():
        before = kinds.get(name, kind)
        kinds[name] = kind if before == kind else "float" if {before, kind} == {"int", "float"} else "string"


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Rows of another table, to be written as they are."""

    table: ItemTable
    """Where they are."""
    rows_N: I64Array
    """Which, int64, in the order wanted."""


class ItemWriter:
    """Writes an item table row after row, in bounded memory (8 bytes an item, and two batches).

    Args:
        directory: where ``items.arrow`` and ``items.lookup.npy`` go.
        kinds: metadata columns and their types, keys of ``TYPES``.

    Raises:
        InvalidArgumentError: a metadata column has a name of the table's own.
        StorageError: the disk is full or failed.
    """

    def __init__(self, directory: Path, *, kinds: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._kinds = dict(sorted((kinds or {}).items()))
        for name in self._kinds:
            if name in CORE_COLUMNS or not name:
                raise InvalidArgumentError(f"a metadata column may not be called {name!r}; rename it in the corpus")
        text, time = TYPES["string"], TYPES["time"]
        columns = [pa.field(name, time if name == "added_at" else text) for name in CORE_COLUMNS]
        columns += [pa.field(name, TYPES[kind]) for name, kind in self._kinds.items()]
        self._schema = pa.schema(columns)
        self._pending: list[Item] = []
        self._ready: list[pa.RecordBatch] = []
        """Rows as columns, fewer than a batch, before those that are pending."""
        self._hashes: list[U64Array] = []
        self.count = 0
        with storage_guard(directory):
            self._sink = pa.OSFile(str(directory / ITEMS), "wb")
            self._writer = pa.ipc.new_file(self._sink, self._schema)

    def append(self, item: Item) -> None:
        """Adds a row.

        Raises:
            InvalidArgumentError: the id is empty or too long.
        """
        if not item.item_id or len(item.item_id.encode()) > MAX_ID_BYTES:
            raise InvalidArgumentError(f"item id {item.item_id[:50]!r} is empty or over {MAX_ID_BYTES} bytes")
        self._pending.append(item)
        self.count += 1
        if len(self._pending) == BATCH_ROWS:
            self._seal()

    def append_rows(self, rows: ItemRows) -> None:
        """Adds rows of another table, column by column."""
        self._seal()
        self._hashes.append(rows.table.hashes(rows.rows_N))
        self.count += len(rows.rows_N)
        for batch in rows.table.batches(rows.rows_N):
            self._put(
                pa.RecordBatch.from_arrays([_column(batch, field) for field in self._schema], schema=self._schema)
            )

    def _seal(self) -> None:
        """Makes columns of the pending rows."""
        items, self._pending = self._pending, []
        if not items:
            return
        self._hashes.append(hash_ids(item.item_id for item in items))
        core = [
            pa.array([getattr(item, name) for item in items], self._schema.field(name).type) for name in CORE_COLUMNS
        ]
        extra = [
            pa.array([_cast(item.metadata.get(name), kind) for item in items], TYPES[kind])
            for name, kind in self._kinds.items()
        ]
        self._put(pa.RecordBatch.from_arrays([*core, *extra], schema=self._schema))

    def _put(self, batch: pa.RecordBatch) -> None:
        """Writes what fills a batch: a reader finds a row by division."""
        self._ready.append(batch)
        while sum(len(one) for one in self._ready) >= BATCH_ROWS:
            whole = self._joined()
            self._ready = [whole.slice(BATCH_ROWS)]
            with storage_guard(self._directory):
                self._writer.write_batch(whole.slice(0, BATCH_ROWS))

    def _joined(self) -> pa.RecordBatch:
        return pa.Table.from_batches(self._ready, self._schema).combine_chunks().to_batches()[0]

    def close(self) -> None:
        """Writes what is left and the lookup.

        Raises:
            InvalidCorpusError: two rows have the same id; it is named.
            StorageError: the disk is full or failed.
        """
        self._seal()
        with storage_guard(self._directory):
            if any(len(one) for one in self._ready):
                self._writer.write_batch(self._joined())
            self._writer.close()
            self._sink.close()
            hashes_N = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
            order_N = np.argsort(hashes_N, kind="stable")
            np.save(self._directory / LOOKUP, np.stack([hashes_N[order_N], order_N.astype(np.uint64)]))
        self._refuse_duplicates(hashes_N[order_N], order_N)

    def _refuse_duplicates(self, sorted_N: U64Array, rows_N: npt.NDArray[np.intp]) -> None:
        twins = np.flatnonzero(sorted_N[1:] == sorted_N[:-1])
        if not len(twins):
            return
        table = ItemTable(self._directory)
        for first, second in zip(rows_N[twins], rows_N[twins + 1], strict=True):
            one, other = table.item_ids([first, second])
            if one == other:
                raise InvalidCorpusError(
                    f"two items have the id {one!r}; if they are of two corpora, name these: a=PATH b=PATH"
                )

    def abort(self) -> None:
        """Closes the files without finishing them."""
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _cast(value: MetadataValue, kind: str) -> MetadataValue:
    if value is None:
        return None
    if kind == "string" and not isinstance(value, str):
        return value.isoformat() if isinstance(value, datetime) else json.dumps(value)
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def _column(batch: pa.RecordBatch, field: "pa.Field[Any]") -> "pa.Array[Any]":
    """Returns a column of another table as one of a field's type, by the rules of ``merge_kinds``."""
    made: pa.Array[Any]
    if field.name not in batch.schema.names:
        made = pa.nulls(len(batch), field.type)
        return made
    made = batch.column(field.name)
    if made.type == field.type:
        return made
    if field.type == TYPES["float"] and made.type == TYPES["int"]:
        made = pa.array([None if value is None else float(value) for value in made.to_pylist()], field.type)
    else:
        made = pa.array([_cast(plain(value), "string") for value in made], field.type)
    return made


def write_items(directory: Path, items: Iterable[Item | ItemRows], *, kinds: Mapping[str, str] | None = None) -> int:
    """Writes an item table.

    Args:
        directory: where ``items.arrow`` and ``items.lookup.npy`` go.
        items: the rows in order; rows of other tables as they are.
        kinds: types of the metadata columns; worked out from the items where it is None.

    Returns:
        The number of rows.

    Raises:
        InvalidCorpusError: two items have the same id.
        InvalidArgumentError: an id or a metadata column is wrong.
        StorageError: the disk is full or failed.
    """
    if kinds is None:
        items, kinds = list(items), {}
        for item in items:
            if isinstance(item, Item):
                merge_kinds(kinds, item.metadata)
            else:
                merge_columns(kinds, item.table.metadata_columns)
    with ItemWriter(directory, kinds=kinds) as writer:
        for item in items:
            if isinstance(item, Item):
                writer.append(item)
            else:
                writer.append_rows(item)
    return writer.count
