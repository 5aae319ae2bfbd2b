"""Merging the shards of an embed job into one embeddings artifact, streaming, first content first."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index.embed_plan import Plan
from index.embed_shards import QUARANTINED, DigestIndex, Shard, digests_of_hex, read_quarantine, read_shard
from vicinal.corpus import Corpus, CorpusItem, Quarantined
from vicinal.embeddings import Embeddings, VectorWriter
from vicinal.errors import CorruptArtifactError
from vicinal.items import Item, ItemWriter
from vicinal.types import BoolArray, F32Array, I64Array

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Base:
    """Earlier embeddings of the same fingerprint, whose vectors are reused by digest."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self.index = DigestIndex()
        self._digests = embeddings.items.column("digest")
        self._stamps = embeddings.items.column("stamp")
        self._added_at = embeddings.items.column("added_at").cast(pa.int64())
        start = 0
        for chunk in self._digests.chunks:
            digests_N32 = digests_of_hex([str(digest) for digest in chunk.to_pylist()])
            add_new(self.index, digests_N32, start)
            start += len(digests_N32)

    def digests_of(self, items: Sequence[CorpusItem]) -> list[bytes | None]:
        """Returns the digest of each item that was embedded under the same id and stamp, else None."""
        rows_k = self.embeddings.items.rows([item.item_id for item in items])
        stamps, digests = self._take(self._stamps, rows_k), self._take(self._digests, rows_k)
        return [
            bytes.fromhex(digest) if digest and item.stamp and item.stamp == stamp else None
            for item, stamp, digest in zip(items, stamps, digests, strict=True)
        ]

    def added_at(self, items: Sequence[CorpusItem], digests: Sequence[str]) -> list[datetime | None]:
        """Returns when each content was first embedded under that very id, or None."""
        rows_k = self.embeddings.items.rows([item.item_id for item in items])
        before = self._take(self._digests, rows_k)
        micros = self._take(self._added_at, rows_k)
        return [
            None if micro is None or digest != old else _EPOCH + timedelta(microseconds=micro)
            for micro, digest, old in zip(micros, digests, before, strict=True)
        ]

    @staticmethod
    def _take(column: "pa.ChunkedArray[Any]", rows_k: I64Array) -> list[Any]:
        """Returns the values of rows, None for row -1."""
        there: pa.Int64Array = pa.array(rows_k, pa.int64(), mask=rows_k < 0)
        return column.take(there).to_pylist()


def add_new(index: DigestIndex, digests_N32: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", start: int) -> None:
    """Adds the digests that an index lacks, each at its first place, numbered from ``start``."""
    missing_n = np.flatnonzero(index.find(digests_N32) < 0)
    _, first_n = np.unique(digests_N32[missing_n], axis=0, return_index=True)
    places_n = missing_n[np.sort(first_n)]
    index.add(digests_N32[places_n], places_n + start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What the merge wrote."""

    count: int
    """Items with a vector."""
    unique_count: int
    """Different contents among them."""
    reused_count: int
    """Items whose vector came from the base."""


class Merger:
    """Writes ``vectors.npy``, ``items.arrow`` and the lookup from the shards of a plan.

    Args:
        plan: the plan.
        shards: the directory of shard files.
        corpora: the corpora, for the names of their sources.
        base: embeddings whose vectors the shards refer to, or None.
        dimension: D.
    """

    def __init__(
        self, plan: Plan, shards: Path, *, corpora: Sequence[Corpus], base: Base | None, dimension: int
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._corpora = corpora
        self._base = base
        self._dimension = dimension
        self._written = DigestIndex()
        self._started_at = datetime.fromisoformat(plan.facts.started_at)
        self._reused_count = 0

    def write(self, directory: Path) -> Merged:
        """Writes the files, not the manifest.

        Raises:
            CorruptArtifactError: a shard is damaged; it is removed, so that the next run makes it again.
            InvalidCorpusError: two items have the same id.
            StorageError: the disk is full or failed.
        """
        vectors = VectorWriter(directory, dimension=self._dimension)
        try:
            with ItemWriter(directory, kinds=self._plan.facts.kinds) as items:
                for number in range(self._plan.shard_count):
                    self._merge(number, vectors, items)
        except BaseException:
            vectors.abort()
            raise
        vectors.close()
        return Merged(count=vectors.count, unique_count=len(self._written), reused_count=self._reused_count)

    def quarantine(self) -> Iterator[Quarantined]:
        """Yields everything that the scan and the shards quarantined."""
        paths = (shard_path(self._shards, number) for number in range(self._plan.shard_count))
        return itertools.chain(self._plan.refused(), *(read_quarantine(path) for path in paths))

    def _merge(self, number: int, vectors: VectorWriter, items: ItemWriter) -> None:
        path = shard_path(self._shards, number)
        rows = self._plan.rows(number)
        shard = read_shard(path, rows=len(rows), dimension=self._dimension)
        if shard is None:
            path.unlink(missing_ok=True)
            raise CorruptArtifactError(f"the shard {path} was damaged; it is removed: run the command again")
        good_n = np.flatnonzero(shard.states_N != QUARANTINED)
        digests_n32 = shard.digests_N32[good_n]
        start = vectors.count
        x_nD, reused_n = self._vectors(shard, good_n, vectors)
        self._reused_count += int(reused_n.sum())
        vectors.append(x_nD)
        add_new(self._written, digests_n32, start)
        kept = [rows[place] for place in good_n]
        digests = [digest.tobytes().hex() for digest in digests_n32]
        times = self._times([item for _, item in kept], digests)
        for (corpus, item), digest, time in zip(kept, digests, times, strict=True):
            items.append(self._item(item, source=self._corpora[corpus].source, digest=digest, added_at=time))

    def _times(self, items: Sequence[CorpusItem], digests: Sequence[str]) -> list[datetime]:
        """Returns the added_at of items: the base's where it has this content under this id."""
        if self._base is None:
            return [self._started_at] * len(items)
        return [time or self._started_at for time in self._base.added_at(items, digests)]

    def _vectors(self, shard: Shard, good_n: I64Array, vectors: VectorWriter) -> tuple[F32Array, BoolArray]:
        """Returns the vectors of a shard's good rows, and which of them the base has.

        A content's first vector is its only one: other ranks may have embedded it too.
        """
        digests_n32 = shard.digests_N32[good_n]
        states_n = shard.states_N[good_n]
        x_nD: F32Array = np.empty((len(good_n), self._dimension), np.float32)
        x_nD[states_n >= 0] = shard.vectors_UD[states_n[states_n >= 0]]
        based_n = np.full(len(good_n), -1, np.int64)
        if self._base is not None:
            based_n = self._base.index.find(digests_n32)
            x_nD[based_n >= 0] = self._base.embeddings.vectors_ND[based_n[based_n >= 0]]
        written_n = self._written.find(digests_n32)
        x_nD[written_n >= 0] = vectors.read_back(written_n[written_n >= 0])
        assert ((states_n >= 0) | (based_n >= 0) | (written_n >= 0)).all(), "a known content has no vector"
        return x_nD, based_n >= 0

    @staticmethod
    def _item(item: CorpusItem, *, source: str, digest: str, added_at: datetime) -> Item:
        return Item(
            item_id=item.item_id,
            digest=digest,
            source=source,
            path=item.path,
            added_at=added_at,
            label=item.label,
            metadata=item.metadata,
            stamp=item.stamp,
        )


def shard_path(directory: Path, number: int) -> Path:
    """Returns where a shard is or goes."""
    return directory / f"{number:06d}.npz"
