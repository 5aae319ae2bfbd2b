"""Reading, hashing and decoding ahead of the forward pass, in threads, in order and in bounded memory."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from vicinal.corpus import Corpus, CorpusItem
from vicinal.errors import InvalidImageError
from vicinal.types import BoolArray, U8Array

CHUNK_ITEMS = 16
"""Items that one task reads and decodes."""
_BUDGET_BYTES = 256 << 20
_HELD_BYTES = 8 << 20
_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item to read."""

    corpus: int
    """Number of its corpus."""
    item: CorpusItem
    digest: bytes | None = None
    """SHA-256 of its content where it is known without reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One item, read."""

    row: Row
    digest: bytes | None
    """SHA-256 of its content; None where it could not be read."""
    image_CHW: U8Array | None
    """Decoded; None where the content is known or wrong."""
    error: InvalidImageError | None
    """Why it could not be read or decoded."""


class _Budget:
    """Bytes that may be held between the one reader of a sequential corpus and the decoders."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._used = 0

    def take(self, size: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._used == 0 or self._used + size <= _BUDGET_BYTES)
            self._used += size

    def give(self, size: int) -> None:
        with self._condition:
            self._used -= size
            self._condition.notify_all()


class ReadAhead:
    """Reads and decodes items ahead of who takes them.

    Args:
        corpora: the corpora, by number.
        decode: content -> x_CHW; raises InvalidImageError for what is not an image.
        is_known: digests_N32 -> which of them need no decoding.
        workers: threads, at least 1.
        window: items to be ahead, at least 1.
    """

    def __init__(
        self,
        corpora: Sequence[Corpus],
        *,
        decode: Callable[[bytes], U8Array],
        is_known: Callable[[U8Array], BoolArray],
        workers: int,
        window: int,
    ) -> None:
        self._corpora = corpora
        self._decode = decode
        self._is_known = is_known
        self._window = window
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        # A sequential corpus is read by one thread in order, and only decoded in the pool.
        self._readers = {
            number: ThreadPoolExecutor(1, thread_name_prefix="read")
            for number, corpus in enumerate(corpora)
            if corpus.sequential
        }
        self._budget = _Budget()

    def stream(self, rows: Iterable[Row]) -> Iterator[list[Loaded]]:
        """Yields the items in order, a few at a time; an item that is wrong carries its error."""
        ahead: deque[tuple[int, Future[list[Loaded]]]] = deque()
        held = 0
        try:
            for chunk in _chunks(rows, self._readers):
                ahead.append((len(chunk), self._submit(chunk)))
                held += len(chunk)
                while held >= self._window + CHUNK_ITEMS:
                    size, future = ahead.popleft()
                    held -= size
                    yield future.result()
            while ahead:
                yield ahead.popleft()[1].result()
        finally:
            for _, future in ahead:
                future.cancel()

    def close(self) -> None:
        """Ends the threads; what they are doing is finished first."""
        for reader in self._readers.values():
            reader.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, chunk: list[Row]) -> Future[list[Loaded]]:
        if all(row.digest is not None for row in chunk):
            done: Future[list[Loaded]] = Future()
            done.set_result([_known(row, row.digest) for row in chunk])
            return done
        reader = self._readers.get(chunk[0].corpus)
        if reader is None:
            return self._pool.submit(self._load, chunk)
        read = reader.submit(self._read_ahead, chunk[0])
        return self._pool.submit(self._take, chunk[0], read)

    def _read_ahead(self, row: Row) -> bytes | InvalidImageError:
        content = self._read(row)
        self._budget.take(len(content) if isinstance(content, bytes) else 0)
        return content

    def _take(self, row: Row, read: "Future[bytes | InvalidImageError]") -> list[Loaded]:
        content = read.result()
        try:
            return self._finish([(row, content)])
        finally:
            self._budget.give(len(content) if isinstance(content, bytes) else 0)

    def _load(self, chunk: list[Row]) -> list[Loaded]:
        """Reads and decodes a chunk, and holds no more than a few encoded images at once."""
        loaded: list[Loaded] = []
        held: list[tuple[Row, bytes | InvalidImageError]] = []
        size = 0
        for row in chunk:
            content = b"" if row.digest is not None else self._read(row)
            held.append((row, content))
            size += len(content) if isinstance(content, bytes) else 0
            if size > _HELD_BYTES:
                loaded += self._finish(held)
                held, size = [], 0
        return loaded + self._finish(held)

    def _read(self, row: Row) -> bytes | InvalidImageError:
        try:
            return self._corpora[row.corpus].read(row.item)
        except InvalidImageError as error:
            return error

    def _finish(self, contents: list[tuple[Row, bytes | InvalidImageError]]) -> list[Loaded]:
        digests = [
            row.digest or (hashlib.sha256(content).digest() if isinstance(content, bytes) else _NO_DIGEST)
            for row, content in contents
        ]
        known = self._is_known(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, len(_NO_DIGEST)))
        loaded: list[Loaded] = []
        for (row, content), digest, is_known in zip(contents, digests, known, strict=True):
            if isinstance(content, InvalidImageError):
                loaded.append(Loaded(row=row, digest=None, image_CHW=None, error=content))
            elif row.digest is not None or is_known:
                loaded.append(_known(row, digest))
            else:
                loaded.append(self._decoded(row, digest, content))
        return loaded

    def _decoded(self, row: Row, digest: bytes, content: bytes) -> Loaded:
        try:
            return Loaded(row=row, digest=digest, image_CHW=self._decode(content), error=None)
        except InvalidImageError as error:
            return Loaded(row=row, digest=digest, image_CHW=None, error=error)


def _known(row: Row, digest: bytes | None) -> Loaded:
    return Loaded(row=row, digest=digest, image_CHW=None, error=None)


def _chunks(rows: Iterable[Row], sequential: Iterable[int]) -> Iterator[list[Row]]:
    """Cuts rows into chunks of one corpus; into single rows for a sequential one."""
    alone = frozenset(sequential)
    chunk: list[Row] = []
    for row in rows:
        if chunk and (len(chunk) == CHUNK_ITEMS or row.corpus != chunk[0].corpus or row.corpus in alone):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk
