"""Parquet: a file, or a folder of files, with a column of encoded images.

The images' column is ``image`` (or ``content``, ``bytes``, ``img``; or ``?image=COLUMN``): binary, or
a struct with ``bytes`` and ``path`` as Hugging Face writes them. The id is ``item_id`` (or
``?id=COLUMN``), else ``FILE/ROW``. ``label`` (or ``?label=COLUMN``) is the class, every other column of
a plain type is metadata. Rows are read in order, a few at a time: only those are in memory.
"""

import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, CorpusSpec, MetadataValue, Quarantined
from vicinal.errors import InvalidCorpusError, InvalidImageError, did_you_mean
from vicinal.item_names import printable

OPTIONS: tuple[str, ...] = ("image", "id", "label")

_IMAGES = ("image", "content", "bytes", "img")
_SCAN_ROWS, _READ_ROWS = 4096, 32
_BROKEN = (OSError, ValueError, KeyError, pa.ArrowException)


def recognises(location: str) -> bool:
    """Says whether the location is a Parquet file or a folder of them."""
    path = Path(location)
    return bool(_files(path)) if path.is_dir() else path.suffix == ".parquet" and path.is_file()


class Reader:
    """Parquet files with a column of encoded images."""

    sequential = True
    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        place = Path(spec.location)
        self._paths = {path.stem: path for path in ([place] if place.is_file() else _files(place))}
        if not self._paths:
            raise InvalidCorpusError(f"{place} has no Parquet files")
        schema = _open(next(iter(self._paths.values()))).schema_arrow
        self._image = _choose(spec, "image", schema, _IMAGES)
        if not self._image:
            raise InvalidCorpusError(
                f"{place} has no column {', '.join(_IMAGES)}; its columns are {', '.join(schema.names[:20])}; "
                "name the one with the images: ?image=COLUMN"
            )
        self._nested = _is_nested(schema, self._image, place)
        self._id = _choose(spec, "id", schema, ("item_id",))
        self._label = _choose(spec, "label", schema, ("label",))
        self._metadata = [column.name for column in schema if _is_plain(column.type)]
        self._lock = threading.Lock()
        self._cursor: _Cursor | None = None

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the rows of each file in order; the images themselves are not read."""
        wanted = sorted({*self._metadata} | {name for name in (self._id, self._label) if name})
        for stem, path in self._paths.items():
            if not self._id and not f"{stem}/".startswith(under) and not under.startswith(f"{stem}/"):
                continue
            found = path.stat()
            stamp = f"{found.st_size}-{found.st_mtime_ns}"
            file = _open(path)
            row = 0
            try:
                for group in range(file.num_row_groups):
                    if not wanted:
                        count = file.metadata.row_group(group).num_rows
                        batches: Iterator[list[dict[str, Any]]] = iter([[{}] * count])
                    else:
                        parts = file.iter_batches(batch_size=_SCAN_ROWS, row_groups=[group], columns=wanted)
                        batches = (part.to_pylist() for part in parts)
                    for place, values in enumerate(one for batch in batches for one in batch):
                        yield self._item(stem, row, values, stamp=stamp, locator=f"{group}+{place}+{stem}")
                        row += 1
            except _BROKEN as error:
                raise InvalidCorpusError(f"{path} is damaged after row {row}: {error}") from error

    def _item(self, stem: str, row: int, values: dict[str, Any], *, stamp: str, locator: str) -> CorpusItem:
        named = values.get(self._id) if self._id else None
        item_id = printable(str(named)) if named not in (None, "") else f"{printable(stem)}/{row:09d}"
        label = values.get(self._label) if self._label else None
        return CorpusItem(
            item_id=item_id,
            path=f"{printable(stem)}/{row:09d}",
            label=None if label is None else str(label),
            metadata={n: _value(values[n]) for n in self._metadata if n not in {self._id, self._label}},
            stamp=stamp,
            locator=locator,
        )

    def read(self, item: CorpusItem) -> bytes:
        """Returns the row's image; quick in the order of the scan."""
        group, row, stem = item.locator.split("+", 2)
        with self._lock:
            try:
                content = self._value_at(stem, int(group), int(row))
            except (*_BROKEN, StopIteration) as error:
                raise InvalidImageError(f"{item.item_id!r} cannot be read from its Parquet file: {error}") from error
        if not isinstance(content, bytes):
            raise InvalidImageError(f"{item.item_id!r} has no image in its row")
        if len(content) > MAX_ITEM_BYTES:
            raise InvalidImageError(f"{item.item_id!r} has {len(content)} bytes, at most {MAX_ITEM_BYTES} are read")
        return content

    def _value_at(self, stem: str, group: int, row: int) -> Any:
        if self._cursor is None or not self._cursor.reaches(stem, group, row):
            self._cursor = _Cursor(
                self._paths[stem], stem, group, f"{self._image}.bytes" if self._nested else self._image
            )
        value = self._cursor.at(row)
        return value.get("bytes") if isinstance(value, dict) else value

    def close(self) -> None:
        """Forgets the place of reading."""
        self._cursor = None


class _Cursor:
    """Reads one column of one row group forwards, a few rows at a time."""

    def __init__(self, path: Path, stem: str, group: int, column: str) -> None:
        self._key = (stem, group)
        parts = _open(path).iter_batches(batch_size=_READ_ROWS, row_groups=[group], columns=[column])
        self._parts = iter(parts)
        self._part: pa.RecordBatch | None = None
        self._start = 0

    def reaches(self, stem: str, group: int, row: int) -> bool:
        return self._key == (stem, group) and row >= self._start

    def at(self, row: int) -> Any:
        while self._part is None or row >= self._start + self._part.num_rows:
            self._start += 0 if self._part is None else self._part.num_rows
            self._part = next(self._parts)
        return self._part.column(0)[row - self._start].as_py()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except _BROKEN as error:
        raise InvalidCorpusError(f"{path} is not a whole Parquet file: {error}") from error


def _choose(spec: CorpusSpec, option: str, schema: pa.Schema, usual: tuple[str, ...]) -> str:
    named = spec.options.get(option)
    if named is not None and named not in schema.names:
        raise InvalidCorpusError(f"{spec.location} has no column {named!r}{did_you_mean(named, schema.names)}")
    return named or next((name for name in usual if name in schema.names), "")


def _is_nested(schema: pa.Schema, column: str, place: Path) -> bool:
    """Returns whether the images are in a struct; refuses a column that holds none."""
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and "bytes" in [part.name for part in kind.fields]:
        return True
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return False
    raise InvalidCorpusError(f"{place}: column {column!r} is {kind}, wanted binary or a struct with bytes")


def _is_plain(kind: pa.DataType) -> bool:
    checks = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_timestamp)
    return any(check(kind) for check in checks) or pa.types.is_large_string(kind) or pa.types.is_date(kind)


def _value(value: Any) -> MetadataValue:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, int) and value >= 1 << 63:
        return str(value)  # an unsigned number beyond what the item table holds
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return datetime(value.year, value.month, value.day, tzinfo=UTC)
