"""One rank of an embed job: its shards, one after the other, from corpora to shard files."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from index.embed_forward import ForwardPool
from index.embed_launch import Rank
from index.embed_merge import Base, add_new, shard_path
from index.embed_plan import Plan
from index.embed_read import Loaded, ReadAhead, Row
from index.embed_salvage import Salvage
from index.embed_shards import DIGEST_BYTES, KNOWN, QUARANTINED, DigestIndex, Shard, read_shard, write_shard
from vicinal.corpus import Corpus, Quarantined
from vicinal.encoder import Encoder
from vicinal.types import BoolArray, F32Array, Metric, U8Array

_LEAST_WINDOW = 256


@dataclass(slots=True, kw_only=True)
class Totals:
    """How far this rank is; handed to the progress callback."""

    total: int
    """Items of this rank."""
    done: int = 0
    """Items finished, by this run or an earlier one."""
    resumed: int = 0
    """Items of these that an earlier run had finished."""
    embedded: int = 0
    """Images that went through the encoder in this run."""
    known: int = 0
    """Items whose content was known in this run."""
    quarantined: int = 0
    """Items quarantined in this run."""


class RankJob:
    """Embeds the shards of one rank.

    Args:
        plan: the plan of the whole job.
        shards: directory of the shard files; it exists.
        corpora: the corpora, by number.
        model: the encoder.
        base: embeddings whose vectors are reused, or None.
        rank: which shards are taken.
        salvage: what earlier plans of the job had embedded.
    """

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        plan: Plan,
        shards: Path,
        *,
        corpora: Sequence[Corpus],
        model: Encoder,
        base: Base | None,
        rank: Rank,
        salvage: Salvage,
    ) -> None:
        self._plan = plan
        self._shards = shards
        self._corpora = corpora
        self._model = model
        self._base = base
        self._salvage = salvage
        self._mine = [number for number in range(plan.shard_count) if rank.takes(number)]
        # What earlier shards of this rank hold; other ranks' contents meet ours in the merge.
        self._seen = DigestIndex()
        self._version = 0
        self._trust_stamps = True

    def run(self, *, batch_size: int, workers: int, trust_stamps: bool, progress: Callable[[Totals], None]) -> Totals:
        """Embeds every shard of this rank that is not there yet.

        Args:
            batch_size: images of one forward pass.
            workers: threads that read and decode.
            trust_stamps: take an item as unchanged when its stamp is.
            progress: called after each batch and shard.

        Returns:
            What was done.

        Raises:
            StorageError: the disk is full or failed.
        """
        self._trust_stamps = trust_stamps
        totals = Totals(total=sum(self._plan.size(number) for number in self._mine))
        waiting = self._pass_by(self._resume(totals), totals)
        progress(totals)
        with ExitStack() as stack:
            ahead = ReadAhead(
                self._corpora,
                decode=self._model.decode,
                is_known=self._needs_no_decoding,
                workers=workers,
                window=max(4 * batch_size, _LEAST_WINDOW),
            )
            stack.callback(ahead.close)
            forward = stack.enter_context(ForwardPool(self._model))
            loaded = self._with_known(ahead.stream(self._rows(waiting)))
            for number in waiting:
                builder = _ShardBuilder(
                    self._plan.size(number),
                    model=self._model,
                    forward=forward,
                    batch_size=batch_size,
                    salvage=self._salvage,
                )
                shard = self._build(builder, loaded, totals=totals, progress=progress)
                totals.embedded += builder.embedded
                write_shard(shard_path(self._shards, number), shard)
                self._remember(shard)
                _count(totals, shard)
                progress(totals)
        return totals

    def _build(
        self,
        builder: "_ShardBuilder",
        loaded: Iterator[tuple[Loaded, bool]],
        *,
        totals: Totals,
        progress: Callable[[Totals], None],
    ) -> Shard:
        for place, (one, known) in enumerate(itertools.islice(loaded, builder.size)):
            passed = builder.add(place, one, known=known)
            totals.done += 1
            if passed:
                progress(totals)
        return builder.finish()

    def _resume(self, totals: Totals) -> list[int]:
        """Takes in the shards that are there, up to the first that is not; returns the others."""
        for position, number in enumerate(self._mine):
            size = self._plan.size(number)
            shard = read_shard(shard_path(self._shards, number), rows=size, dimension=self._model.dimension)
            if shard is None:
                return self._mine[position:]
            self._remember(shard)
            totals.done += size
            totals.resumed += size
        return []

    def _pass_by(self, numbers: Sequence[int], totals: Totals) -> list[int]:
        """Finishes the shards in which the base knows every item by its stamp; returns the others."""
        if self._base is None or not self._trust_stamps:
            return list(numbers)
        others: list[int] = []
        for number in numbers:
            found = self._base.digests_of([item for _, item in self._plan.rows(number)])
            digests = [digest for digest in found if digest is not None]
            if len(digests) < len(found):
                others.append(number)
                continue
            shard = Shard(
                digests_N32=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES),
                states_N=np.full(len(digests), KNOWN, np.int32),
                vectors_UD=np.zeros((0, self._model.dimension), np.float32),
                quarantine=[],
            )
            write_shard(shard_path(self._shards, number), shard)
            totals.done += len(digests)
            _count(totals, shard)
        return others

    def _rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        for number in numbers:
            rows = self._plan.rows(number)
            digests: list[bytes | None] = [None] * len(rows)
            if self._base is not None and self._trust_stamps:
                digests = self._base.digests_of([item for _, item in rows])
            for (corpus, item), digest in zip(rows, digests, strict=True):
                yield Row(corpus=corpus, item=item, digest=digest)

    def _with_known(self, chunks: Iterator[list[Loaded]]) -> Iterator[tuple[Loaded, bool]]:
        """Yields each item with whether its content is known, by the base and all shards before its own.

        A chunk may reach into the next shard: what it holds is looked up again when that is begun.
        """
        for chunk in chunks:
            version, known = self._version, self._known_among(chunk)
            for place, one in enumerate(chunk):
                if version != self._version:
                    version, known = self._version, self._known_among(chunk)
                yield one, bool(known[place])

    def _known_among(self, chunk: Sequence[Loaded]) -> BoolArray:
        digests = b"".join(one.digest or bytes(DIGEST_BYTES) for one in chunk)
        return self._is_known(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES))

    def _is_known(self, digests_N32: U8Array) -> BoolArray:
        known_N: BoolArray = self._seen.find(digests_N32) >= 0
        if self._base is not None:
            known_N |= self._base.index.find(digests_N32) >= 0
        return known_N

    def _needs_no_decoding(self, digests_N32: U8Array) -> BoolArray:
        return self._is_known(digests_N32) | self._salvage.has(digests_N32)

    def _remember(self, shard: Shard) -> None:
        digests_n32 = shard.digests_N32[shard.states_N >= 0]
        add_new(self._seen, digests_n32, 0)
        self._version += 1


class _ShardBuilder:
    """Gathers one shard: batches its new contents, and tells repeated ones apart."""

    def __init__(self, size: int, *, model: Encoder, forward: ForwardPool, batch_size: int, salvage: Salvage) -> None:
        self.size = size
        self._model = model
        self._batch_size = batch_size
        self._salvage = salvage
        self._pool = forward
        self._passes: list[tuple[list[int], Future[F32Array]]] = []
        self._batch: dict[int, U8Array] = {}
        self._slots: dict[bytes, int] = {}
        self._x_ND: F32Array = np.zeros((size, model.dimension), np.float32)
        self._digests_N32: U8Array = np.zeros((size, DIGEST_BYTES), np.uint8)
        self._states_N = np.full(size, QUARANTINED, np.int32)
        self._quarantine: list[Quarantined] = []
        self._item_ids: list[str] = []
        self.embedded = 0

    def add(self, place: int, one: Loaded, *, known: bool) -> bool:
        """Takes the next item; returns whether a forward pass was begun."""
        self._item_ids.append(one.row.item.item_id)
        if one.digest is not None:
            self._digests_N32[place] = _digest_row(one.digest)[0]
        if known:
            self._states_N[place] = KNOWN
        elif one.digest is not None and one.digest in self._slots:
            self._states_N[place] = self._slots[one.digest]
        elif one.error is not None:
            self._refuse(place, one.error.reason, one.error.message)
        else:
            assert one.digest is not None, "read"
            self._take(place, one.digest, one.image_CHW)
        if len(self._batch) < self._batch_size:
            return False
        self._forward()
        return True

    def _take(self, place: int, digest: bytes, image_CHW: U8Array | None) -> None:
        """Gives a new content a slot, and its vector now or with the next forward pass."""
        slot = self._states_N[place] = self._slots[digest] = len(self._slots)
        if image_CHW is not None:
            self._batch[slot] = image_CHW
        else:
            self._x_ND[slot] = self._salvage.vector(int(self._salvage.find(_digest_row(digest))[0]))

    def _refuse(self, place: int, reason: str, message: str) -> None:
        self._states_N[place] = QUARANTINED
        self._quarantine.append(Quarantined(item_id=self._item_ids[place], reason=reason, message=message))

    def _forward(self) -> None:
        self._passes.append((list(self._batch), self._pool.submit(list(self._batch.values()))))
        self.embedded += len(self._batch)
        self._batch = {}

    def finish(self) -> Shard:
        """Embeds what is left and returns the shard."""
        if self._batch:
            self._forward()
        for slots, future in self._passes:
            self._x_ND[slots] = future.result()
        x_UD = self._x_ND[: len(self._slots)]
        for place in np.flatnonzero(self._unusable(x_UD)[self._states_N] & (self._states_N >= 0)):
            self._refuse(int(place), "NO_DIRECTION", "the encoder gives it a vector of zeros or one that is not finite")
        return Shard(
            digests_N32=self._digests_N32, states_N=self._states_N, vectors_UD=x_UD, quarantine=self._quarantine
        )

    def _unusable(self, x_UD: F32Array) -> npt.NDArray[np.bool_]:
        """Returns which vectors cannot be searched; then False for the states below 0."""
        bad_U = ~np.isfinite(x_UD).all(axis=1)
        if self._model.metric is Metric.COSINE:
            bad_U |= ~x_UD.any(axis=1)
        return np.append(bad_U, np.zeros(2, np.bool_))


def _digest_row(digest: bytes) -> U8Array:
    return np.frombuffer(digest, np.uint8)[None]


def _count(totals: Totals, shard: Shard) -> None:
    totals.known += int((shard.states_N == KNOWN).sum())
    totals.quarantined += len(shard.quarantine)
