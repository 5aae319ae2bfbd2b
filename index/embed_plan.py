"""The plan of an embed job: every item of the corpora, in order, cut into shards, on disk.

The plan's digest covers ids, places and stamps of all items, so that a job that was killed goes
on only where the corpora still look the same.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vicinal.artifact import storage_guard, sync_tree
from vicinal.corpus import Corpus, CorpusItem, MetadataValue, Quarantined
from vicinal.errors import InvalidCorpusError
from vicinal.item_names import printable
from vicinal.item_table import CORE_COLUMNS, U64Array, hash_ids
from vicinal.items import merge_kinds

MAX_COLUMNS = 1000
"""Most metadata columns of an item table."""
_ROWS, _FACTS, _REFUSED = "plan.arrow", "plan.json", "quarantine.jsonl"
_NAMES = ("corpus", "item_id", "path", "label", "stamp", "locator", "metadata")
_SCHEMA = pa.schema([(name, pa.int32() if name == "corpus" else pa.string()) for name in _NAMES])


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """What is known of a plan as a whole."""

    digest: str
    """SHA-256 over every row."""
    count: int
    """Rows, including duplicate ids."""
    shard_size: int
    """Rows of each shard but the last."""
    started_at: str
    """When the items were first seen, ISO 8601, UTC; their added_at."""
    token: str
    """Random; tells this plan from a later one of the same items."""
    kinds: dict[str, str]
    """Metadata columns and their types."""
    duplicates: list[int]
    """Rows whose id an earlier row of the same corpus has."""
    refused_count: int
    """Entries that the scan quarantined."""


class Plan:
    """A plan on disk, opened.

    Args:
        directory: where ``make_plan`` put it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.facts = PlanFacts(**json.loads((directory / _FACTS).read_text(encoding="utf-8")))
        self._source = pa.memory_map(str(directory / _ROWS))
        self._reader = pa.ipc.open_file(self._source)
        self._duplicates = frozenset(self.facts.duplicates)

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return int(self._reader.num_record_batches)

    def size(self, shard: int) -> int:
        """Returns the number of items of a shard."""
        first = shard * self.facts.shard_size
        rows = int(self._reader.get_batch(shard).num_rows)
        return rows - sum(first + n in self._duplicates for n in range(rows)) if self._duplicates else rows

    def rows(self, shard: int) -> list[tuple[int, CorpusItem]]:
        """Returns the items of a shard, each with the number of its corpus."""
        first = shard * self.facts.shard_size
        columns = self._reader.get_batch(shard).to_pydict()
        rows = zip(*(columns[name] for name in _NAMES), strict=True)
        skipped = self._duplicates
        return [_item(row) for n, row in enumerate(rows) if not skipped or first + n not in skipped]

    def refused(self) -> Iterator[Quarantined]:
        """Yields what the scan quarantined, then the rows with the id of an earlier one."""
        with (self._directory / _REFUSED).open(encoding="utf-8") as stream:
            yield from (Quarantined(**json.loads(line)) for line in stream)
        for row in self.facts.duplicates:
            batch = self._reader.get_batch(row // self.facts.shard_size)
            item_id = batch.column(1)[row % self.facts.shard_size].as_py()
            message = "its corpus has an earlier entry of the same name, which was taken"
            yield Quarantined(item_id=item_id, reason="DUPLICATE_ID", message=message)


def _item(row: tuple[Any, ...]) -> tuple[int, CorpusItem]:
    corpus, item_id, path, label, stamp, locator, text = row
    metadata = {name: _from_json(value) for name, value in json.loads(text).items()} if text else {}
    return corpus, CorpusItem(item_id=item_id, path=path, label=label, metadata=metadata, stamp=stamp, locator=locator)


def _from_json(value: Any) -> MetadataValue:
    return datetime.fromisoformat(value["time"]) if isinstance(value, dict) else value


def _to_json(item: CorpusItem) -> str:
    if not item.metadata:
        return ""
    # A column of the table's own name is kept under another.
    named = {f"corpus_{k}" if k in CORE_COLUMNS else printable(k): value for k, value in item.metadata.items()}
    return json.dumps(
        {k: {"time": v.isoformat()} if isinstance(v, datetime) else v for k, v in named.items()}, allow_nan=False
    )


class _PlanWriter:
    """Takes rows one by one; holds one shard and 8 bytes an item."""

    def __init__(self, directory: Path, shard_size: int) -> None:
        self._directory = directory
        self._shard_size = shard_size
        self._digest = hashlib.sha256()
        self._pending: list[dict[str, Any]] = []
        self._hashes: list[U64Array] = []
        self._kinds: dict[str, str] = {}
        self._count = 0
        self._refused_count = 0
        self._refused = (directory / _REFUSED).open("w", encoding="utf-8")
        self._sink = pa.OSFile(str(directory / _ROWS), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)

    def add(self, corpus: int, entry: CorpusItem | Quarantined) -> None:
        if isinstance(entry, Quarantined):
            self._refused.write(json.dumps(asdict(entry)) + "\n")
            self._refused_count += 1
            return
        metadata = _to_json(entry)
        if metadata:
            merge_kinds(self._kinds, {k: _from_json(v) for k, v in json.loads(metadata).items()})
            if len(self._kinds) > MAX_COLUMNS:
                raise InvalidCorpusError(
                    f"the metadata of item {entry.item_id!r} makes more than {MAX_COLUMNS} columns; nest what varies"
                )
        values = (corpus, entry.item_id, entry.path, entry.label, entry.stamp, entry.locator, metadata)
        self._digest.update(json.dumps(values).encode())
        self._pending.append(dict(zip(_SCHEMA.names, values, strict=True)))
        self._count += 1
        if len(self._pending) == self._shard_size:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._pending, schema=_SCHEMA))
        self._hashes.append(hash_ids(row["item_id"] for row in self._pending))
        self._pending = []

    def finish(self, started_at: datetime, corpora: Sequence[Corpus]) -> None:
        if self._pending:
            self._flush()
        self._writer.close()
        self._sink.close()
        self._refused.close()
        facts = PlanFacts(
            digest=self._digest.hexdigest(),
            count=self._count,
            shard_size=self._shard_size,
            started_at=started_at.isoformat(),
            token=uuid.uuid4().hex,
            kinds=self._kinds,
            duplicates=self._duplicates(corpora),
            refused_count=self._refused_count,
        )
        (self._directory / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")

    def release(self) -> None:
        """Closes what is open, after an error too."""
        self._refused.close()
        self._sink.close()

    def _duplicates(self, corpora: Sequence[Corpus]) -> list[int]:
        hashes_N = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        order_N = np.argsort(hashes_N, kind="stable")
        twins = np.flatnonzero(hashes_N[order_N][1:] == hashes_N[order_N][:-1])
        found: list[int] = []
        if len(twins):
            with pa.memory_map(str(self._directory / _ROWS)) as source:
                table = pa.ipc.open_file(source).read_all()
                for first, second in zip(order_N[twins], order_N[twins + 1], strict=True):
                    one, other = table.slice(first, 1).to_pylist()[0], table.slice(second, 1).to_pylist()[0]
                    if one["item_id"] == other["item_id"]:
                        _refuse_mixture(one, other, corpora)
                        found.append(int(second))
        return sorted(found)


def _refuse_mixture(one: dict[str, Any], other: dict[str, Any], corpora: Sequence[Corpus]) -> None:
    if one["corpus"] != other["corpus"]:
        first, second = corpora[one["corpus"]].spec, corpora[other["corpus"]].spec
        raise InvalidCorpusError(
            f"the corpora {first!r} and {second!r} both have an item {one['item_id']!r}; "
            f"give them names, which go before the ids: a={first} b={second}"
        )


def make_plan(
    directory: Path, corpora: Sequence[Corpus], *, shard_size: int, now: datetime | None = None
) -> tuple[Plan, bool]:
    """Scans the corpora; keeps the plan that is there when nothing has changed since.

    Args:
        directory: where the plan is or goes.
        corpora: what to embed, in order.
        shard_size: items of a shard, at least 1.
        now: the added_at of the items; the current time by default.

    Returns:
        The plan, and whether it is the one that was there.

    Raises:
        InvalidCorpusError: two corpora have an item of the same id, or an archive is damaged.
        StorageError: the disk is full or failed.
    """
    fresh = directory.with_name(directory.name + ".new")
    with storage_guard(directory):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        writer = _PlanWriter(fresh, shard_size)
        try:
            for number, corpus in enumerate(corpora):
                for entry in corpus.scan():
                    writer.add(number, entry)
            writer.finish(now or datetime.now(UTC), corpora)
        finally:
            writer.release()
        kept = _digest_of(directory) == _digest_of(fresh)
        if kept:
            shutil.rmtree(fresh)
        else:
            sync_tree(fresh)
            shutil.rmtree(directory, ignore_errors=True)
            fresh.rename(directory)
    return Plan(directory), kept


def _digest_of(directory: Path) -> str | None:
    try:
        return Plan(directory).facts.digest
    except (OSError, ValueError, TypeError, pa.ArrowException):
        return None
