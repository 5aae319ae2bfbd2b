"""Items, their table and how it is written: what is known of each row of an artifact.

Written row after row in bounded memory; a table is complete when its writer has closed.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vicinal.artifact import storage_guard
from vicinal.corpus import MAX_ID_BYTES, MetadataValue
from vicinal.errors import InvalidArgumentError, InvalidCorpusError
from vicinal.item_table import BATCH_ROWS, CORE_COLUMNS, ITEMS, LOOKUP, TYPES, Item, ItemTable, U64Array, hash_ids

__all__ = [
    "CORE_COLUMNS",
    "ITEMS",
    "LOOKUP",
    "TYPES",
    "Item",
    "ItemTable",
    "ItemWriter",
    "kind_of",
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
    for name, value in metadata.items():
        kind = kind_of(value)
        before = kinds.get(name)
        if kind is None or kind == before:
            continue
        both = {kind, before or kind}
        kinds[name] = kind if before is None else "float" if both == {"int", "float"} else "string"


class ItemWriter:
    """Writes an item table row after row, in bounded memory (8 bytes an item, and one batch).

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
            self._flush()

    def _flush(self) -> None:
        items, self._pending = self._pending, []
        self._hashes.append(hash_ids(item.item_id for item in items))
        core = [
            pa.array([getattr(item, name) for item in items], self._schema.field(name).type) for name in CORE_COLUMNS
        ]
        extra = [
            pa.array([_cast(item.metadata.get(name), kind) for item in items], TYPES[kind])
            for name, kind in self._kinds.items()
        ]
        with storage_guard(self._directory):
            self._writer.write_batch(pa.RecordBatch.from_arrays([*core, *extra], schema=self._schema))

    def close(self) -> None:
        """Writes what is left and the lookup.

        Raises:
            InvalidCorpusError: two rows have the same id; it is named.
            StorageError: the disk is full or failed.
        """
        if self._pending:
            self._flush()
        with storage_guard(self._directory):
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


def write_items(directory: Path, items: Iterable[Item], *, kinds: Mapping[str, str] | None = None) -> int:
    """Writes an item table.

    Args:
        directory: where ``items.arrow`` and ``items.lookup.npy`` go.
        items: the rows in order.
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
            merge_kinds(kinds, item.metadata)
    with ItemWriter(directory, kinds=kinds) as writer:
        for item in items:
            writer.append(item)
    return writer.count
