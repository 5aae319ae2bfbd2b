"""Reading the item table: what is known of each row of an embeddings artifact or snapshot, memory-mapped.

``items.arrow`` is an Arrow IPC file of record batches of 65,536 rows (the last may be shorter);
``items.lookup.npy`` holds the 64-bit BLAKE2b hashes of the ids in order, and their rows, so that
processes share the way from an id to its row and none keeps a dictionary of millions.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vicinal.corpus import MetadataValue
from vicinal.errors import CorruptArtifactError, InvalidArgumentError, ItemNotFoundError, did_you_mean
from vicinal.types import I64Array

ITEMS = "items.arrow"
LOOKUP = "items.lookup.npy"
BATCH_ROWS = 65_536
CORE_COLUMNS = ("item_id", "digest", "source", "path", "added_at", "label", "stamp")
"""Columns that every table has; a metadata column may not have one of these names."""
TYPES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "time": pa.timestamp("us", tz="UTC"),
}
"""Types of metadata columns, by the name that the rest of Vicinal uses."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

U64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row of the table."""

    item_id: str
    """Stable id, unique in the table."""
    digest: str
    """SHA-256 of the encoded image, 64 hexadecimal digits."""
    source: str
    """Corpus it was read from, as its user named it."""
    path: str
    """Path within the corpus."""
    added_at: datetime
    """When it was first embedded into this workspace, UTC, in microseconds."""
    label: str | None = None
    """Class named by the corpus; for evaluation only."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Typed values by column; a column without a value for this item is None."""
    stamp: str = ""
    """The corpus reader's cheap hint that content changed."""


def hash_ids(item_ids: Iterable[str]) -> U64Array:
    """Returns the 64-bit hashes of ids, as the lookup has them."""
    digests = b"".join(hashlib.blake2b(item_id.encode(), digest_size=8).digest() for item_id in item_ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64, copy=False)


class ItemTable:
    """The rows of an embeddings artifact or snapshot; memory-mapped, safe to use from several threads.

    Args:
        directory: where ``items.arrow`` and ``items.lookup.npy`` are; their checksums are the
            caller's to check.

    Raises:
        CorruptArtifactError: a file is missing or not of this format.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._source = pa.memory_map(str(directory / ITEMS))
            reader = pa.ipc.open_file(self._source)
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self._table = pa.Table.from_batches(self._batches, reader.schema)
            self._lookup: U64Array = np.load(directory / LOOKUP, mmap_mode="r", allow_pickle=False)
            names = self._table.column_names
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CorruptArtifactError(f"{directory / ITEMS} or {LOOKUP} is damaged: {error}") from error
        self.count: int = self._table.num_rows
        if tuple(names[: len(CORE_COLUMNS)]) != CORE_COLUMNS or self._lookup.shape != (2, self.count):
            raise CorruptArtifactError(f"{directory / ITEMS} and {LOOKUP} do not belong together")
        self._hashes_N, self._rows_N = self._lookup
        self._ids = [_TextView(batch.column(0)) for batch in self._batches]

    def __len__(self) -> int:
        return self.count

    @property
    def columns(self) -> dict[str, str]:
        """Every column and its type, a key of ``TYPES``."""
        kinds = {str(arrow): kind for kind, arrow in TYPES.items()}
        return {column.name: kinds[str(column.type)] for column in self._table.schema}

    @property
    def metadata_columns(self) -> dict[str, str]:
        """The columns of the corpus manifest and their types."""
        return {name: kind for name, kind in self.columns.items() if name not in CORE_COLUMNS}

    def column(self, name: str) -> "pa.ChunkedArray[Any]":
        """Returns one column, by name, without copying it.

        Raises:
            InvalidArgumentError: no such column; the message suggests one.
        """
        if name not in self._table.column_names:
            raise InvalidArgumentError(f"no column {name!r}{did_you_mean(name, self._table.column_names)}")
        return self._table.column(name)

    def item_ids(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[str]:
        """Returns the ids of rows, in their order.

        Args:
            rows: row numbers in [0, count).
        """
        views = self._ids
        return [views[row // BATCH_ROWS][row % BATCH_ROWS] for row in (int(row) for row in rows)]

    def row(self, item_id: str) -> int:
        """Returns the row of an id.

        Raises:
            ItemNotFoundError: no item has that id.
        """
        found = self.find(item_id)
        if found is None:
            raise ItemNotFoundError(
                f"no item has the id {item_id[:200]!r} among {self.count}; ids are paths inside the corpus",
                metadata={"item_id": item_id[:200]},
            )
        return found

    def find(self, item_id: str) -> int | None:
        """Returns the row of an id, or None."""
        wanted = hash_ids([item_id])[0]
        start = int(np.searchsorted(self._hashes_N, wanted))
        for place in range(start, self.count):
            if self._hashes_N[place] != wanted:
                break
            row = int(self._rows_N[place])
            if self.item_ids([row])[0] == item_id:
                return row
        return None

    def rows(self, item_ids: Sequence[str]) -> I64Array:
        """Returns the row of each id, or -1; much faster than one by one.

        Args:
            item_ids: any number of ids.
        """
        found_K = np.full(len(item_ids), -1, np.int64)
        if not self.count or not len(item_ids):
            return found_K
        hashes_K = hash_ids(item_ids)
        places_K = np.minimum(np.searchsorted(self._hashes_N, hashes_K), self.count - 1)
        likely_k = np.flatnonzero(self._hashes_N[places_K] == hashes_K)
        rows_k = self._rows_N[places_K[likely_k]].astype(np.int64)
        for place, row, item_id in zip(likely_k.tolist(), rows_k.tolist(), self.item_ids(rows_k), strict=True):
            if item_id == item_ids[place]:
                found_K[place] = row
            else:  # another id of the same hash
                other = self.find(item_ids[place])
                found_K[place] = -1 if other is None else other
        return found_K

    def hashes(self, rows_N: I64Array) -> U64Array:
        """Returns the hashes of the ids of rows, in their order."""
        by_row_N = np.empty(self.count, np.uint64)
        by_row_N[self._rows_N] = self._hashes_N
        return by_row_N[rows_N]

    def batches(self, rows_N: I64Array) -> Iterator[pa.RecordBatch]:
        """Yields rows, in their order, as record batches of at most 65,536.

        Args:
            rows_N: row numbers in [0, count), int64.
        """
        numbers_N = rows_N // BATCH_ROWS
        edges = np.flatnonzero(np.diff(numbers_N)) + 1
        for part_n in np.split(rows_N, edges):
            if len(part_n):
                yield self._batches[int(part_n[0]) // BATCH_ROWS].take(part_n % BATCH_ROWS)

    def item(self, row: int) -> Item:
        """Returns everything that is known of a row.

        Args:
            row: row number in [0, count).
        """
        assert 0 <= row < self.count, row
        batch, place = self._batches[row // BATCH_ROWS], row % BATCH_ROWS
        values = {name: plain(batch.column(number)[place]) for number, name in enumerate(batch.schema.names)}
        core = {name: values.pop(name) for name in CORE_COLUMNS}
        return Item(**core, metadata=values)


def plain(scalar: "pa.Scalar[Any]") -> Any:
    """Returns the Python value of a scalar."""
    if isinstance(scalar, pa.TimestampScalar):
        # as_py() would look for a time zone database, which a small image does not have.
        return None if scalar.value is None else _EPOCH + timedelta(microseconds=scalar.value)
    return scalar.as_py()


class _TextView:
    """Reads one string of an Arrow array in a fraction of a microsecond, past Arrow's scalars."""

    def __init__(self, column: "pa.Array[Any]") -> None:
        _, offsets, data = column.buffers()
        assert offsets is not None
        self._offsets = memoryview(offsets).cast("B").cast("i")
        self._data = memoryview(data) if data is not None else memoryview(b"")

    def __getitem__(self, place: int) -> str:
        return str(self._data[self._offsets[place] : self._offsets[place + 1]], "utf-8")
