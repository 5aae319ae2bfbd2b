"""A manifest: a CSV, TSV or JSON-lines file that names image files and says things about them.

A row's ``path`` (or ``file``, ``file_name``, ``filename``, ``image``; or ``?path=COLUMN``) is relative
to the manifest's folder, or to ``?root=FOLDER``, and may not leave it. ``item_id`` and ``label`` are
taken where they exist (or ``?id=COLUMN``, ``?label=COLUMN``); every other column is metadata with a
type found from all its values.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vicinal.corpus import CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError, did_you_mean
from vicinal.image_files import file_item, read_file
from vicinal.item_names import printable
from vicinal.typed_text import kinds_of, typed

OPTIONS: tuple[str, ...] = ("root", "path", "id", "label")

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
_PATHS = ("path", "file", "file_name", "filename", "image")
_MAX_FIELD_CHARACTERS = 1 << 20


def recognises(location: str) -> bool:
    """Says whether the location is a file named like a manifest."""
    return location.lower().endswith((*_DELIMITERS, *_JSON_LINES)) and Path(location).is_file()


class Reader:
    """A manifest of image files."""

    sequential = False
    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        self._place = Path(spec.location)
        root = Path(spec.options.get("root", "."))
        self._root = os.path.realpath(self._place.parent / root.expanduser())
        columns = self._columns()
        self._path = _choose(spec, "path", columns, _PATHS, needed=True)
        self._id = _choose(spec, "id", columns, ("item_id",), needed=False)
        self._label = _choose(spec, "label", columns, ("label",), needed=False)
        self._kinds = kinds_of({name: row.get(name) for name in columns} for _, row in self._rows())
        for name in (self._path, self._id, self._label):
            self._kinds.pop(name, None)

    def _columns(self) -> list[str]:
        columns: dict[str, None] = {}
        for _, row in self._rows():
            columns.update(dict.fromkeys(row))
            if self._place.suffix.lower() in _DELIMITERS:
                break
        if not columns:
            raise InvalidCorpusError(
                f"the manifest {self._place} has no rows; wanted a column 'path' and a row an image"
            )
        return list(columns)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the rows with their line numbers."""
        delimiter = _DELIMITERS.get(self._place.suffix.lower())
        number = 0
        try:
            with self._place.open(encoding="utf-8-sig", newline="") as stream:
                if delimiter is None:
                    for number, line in enumerate(stream, 1):
                        if line.strip():
                            yield number, _object(json.loads(line))
                    return
                csv.field_size_limit(_MAX_FIELD_CHARACTERS)
                reader = csv.DictReader(stream, delimiter=delimiter, restkey="", strict=True)
                for row in reader:
                    number = reader.line_num
                    row.pop("", None)
                    yield number, row
        except OSError as error:
            raise InvalidCorpusError(f"cannot read the manifest {self._place}: {error.strerror}") from error
        except (ValueError, RecursionError, csv.Error) as error:
            raise InvalidCorpusError(f"the manifest {self._place} is wrong after line {number}: {error}") from error

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:  # noqa: ARG002 - every row is read anyhow
        """Yields the images in the order of the manifest."""
        for number, row in self._rows():
            yield self._entry(number, row)

    def _entry(self, number: int, row: dict[str, Any]) -> CorpusItem | Quarantined:
        path = row.get(self._path)
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            return Quarantined(item_id=f"line {number}", reason="NO_PATH", message=f"its {self._path} is empty")
        path = os.path.normpath(path.strip())
        if Path(path).is_absolute():
            path = os.path.relpath(path, self._root)
        if path == ".." or path.startswith("../"):
            message = f"it lies outside {self._root}; if it shall be read, add ?root=FOLDER to the corpus"
            return Quarantined(item_id=printable(path), reason="OUTSIDE_ROOT", message=message)
        entry = file_item(self._root, path)
        if isinstance(entry, Quarantined):
            return entry
        item_id = row.get(self._id) if self._id else None
        label = row.get(self._label) if self._label else entry.label
        return replace(
            entry,
            item_id=printable(str(item_id)) if item_id not in (None, "") else entry.item_id,
            label=None if label in (None, "") else printable(str(label)),
            metadata={name: typed(row.get(name), kind) for name, kind in self._kinds.items()},
        )

    def read(self, item: CorpusItem) -> bytes:
        """Returns the bytes of the file, which must be a regular one when it is opened."""
        return read_file(self._root, item)

    def close(self) -> None:
        """Holds nothing open."""


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"wanted an object on each line, got {type(value).__name__}")  # noqa: TRY004 - told on with its line
    return value


def _choose(spec: CorpusSpec, option: str, columns: list[str], usual: tuple[str, ...], *, needed: bool) -> str:
    """Returns the column of a role: the one that the spec names, else a usual one, else an empty name."""
    named = spec.options.get(option)
    if named is not None and named not in columns:
        raise InvalidCorpusError(f"the manifest {spec.location} has no column {named!r}{did_you_mean(named, columns)}")
    chosen = named or next((name for name in usual if name in columns), "")
    if needed and not chosen:
        raise InvalidCorpusError(
            f"the manifest {spec.location} has no column {', '.join(usual)}; its columns are "
            f"{', '.join(columns[:20])}; name the one with the paths: ?path=COLUMN"
        )
    return chosen
