"""StreamSearch for both clients: many queries under way at once, results in the order of the queries.

What was unanswered when a server went away is sent again on the next connection.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import grpc
from typing_extensions import Unpack

from vicinal.client.call import serialized
from vicinal.client.channel import RetryPolicy
from vicinal.client.query import Options, QueryLike, encode_options, search_request
from vicinal.client.results import SearchResult
from vicinal.client.search import decode_search
from vicinal.codec import decode_error
from vicinal.errors import UnavailableError, VicinalError
from vicinal.v1 import search_service_pb2 as pb

METHOD = "/vicinal.v1.SearchService/StreamSearch"
ToError = Callable[[grpc.RpcError], VicinalError]
_LOOK_S = 0.05


class Pending:
    """The queries of a stream that are sent and not yet given back.

    Args:
        queries: what to ask; taken no faster than it is answered.
        window: most queries under way.
        snapshot: answer from this snapshot; empty for the active one.
        options: as for ``search``.
    """

    def __init__(self, queries: Iterable[QueryLike], *, window: int, snapshot: str, **options: Unpack[Options]) -> None:
        self._queries = iter(queries)
        # Wrong options are told at once.
        encode_options(options)
        self._options = options
        self._snapshot = snapshot
        self._free = threading.Semaphore(window)
        self._lock = threading.Lock()
        self._sent: dict[int, pb.StreamSearchRequest] = {}
        self._again: deque[pb.StreamSearchRequest] = deque()
        self._back: dict[int, SearchResult | VicinalError] = {}
        self._taken = 0
        self._given = 0
        self._epoch = 0
        self._ended = False
        self._broken: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether every query has been answered."""
        return self._ended and not self._sent

    def open(self) -> int:
        """Returns the number of a new connection; older ones stop, and what is unanswered is sent again."""
        with self._lock:
            self._epoch += 1
            self._again = deque(self._sent.values())
            return self._epoch

    def requests(self) -> Iterator[pb.StreamSearchRequest]:
        """Yields what a new connection has to be sent, waiting for room in the window."""
        epoch = self.open()
        while (request := self.take(epoch, wait=True)) is not None:
            yield request

    def take(self, epoch: int, *, wait: bool) -> pb.StreamSearchRequest | None:
        """Returns what a connection has to be sent next, None when there is nothing more for it.

        Args:
            epoch: the connection.
            wait: wait for room in the window.

        Raises:
            BlockingIOError: there is no room, and ``wait`` is false.
        """
        with self._lock:
            if self._epoch != epoch:
                return None
            if self._again:
                return self._again.popleft()
        while not self._free.acquire(blocking=wait, timeout=_LOOK_S if wait else None):
            if not wait:
                raise BlockingIOError
            if self._epoch != epoch:
                return None
        return self._take(epoch)

    def accept(self, reply: pb.StreamSearchResponse) -> Iterator[SearchResult | VicinalError]:
        """Takes an answer, and yields what can be given back in order.

        Raises:
            BaseException: what the caller's own iterable raised.
        """
        with self._lock:
            if self._sent.pop(reply.sequence, None) is None:
                return
            self._back[reply.sequence] = (
                decode_error(reply.error) if reply.HasField("error") else decode_search(reply.search)
            )
        while self._given in self._back:
            self._free.release()
            self._given += 1
            yield self._back.pop(self._given - 1)

    def check(self) -> None:
        """Raises what the caller's own iterable raised, if it did."""
        if self._broken is not None:
            raise self._broken

    def _take(self, epoch: int) -> pb.StreamSearchRequest | None:
        with self._lock:
            if self._epoch != epoch or self._ended:
                self._free.release()
                return None
            request = pb.StreamSearchRequest(sequence=self._taken)
            try:
                search = search_request(next(self._queries), self._snapshot, "", self._options)
            except StopIteration:
                self._ended = True
                return None
            except BaseException as error:  # noqa: BLE001 - raised again below
                # Raised again where the caller sees it, not in the thread that sends.
                self._ended, self._broken = True, error
                return None
            request.search.MergeFromString(serialized(search))
            self._sent[self._taken] = request
            self._taken += 1
            return request


def run_sync(
    pending: Pending, start: Callable[[Iterator[pb.StreamSearchRequest]], Any], to_error: ToError, retry: RetryPolicy
) -> Iterator[SearchResult | VicinalError]:
    """Drives a stream of the blocking client.

    Args:
        pending: the queries.
        start: opens a connection's stream.
        to_error: tells our errors from gRPC's.
        retry: when to connect again.

    Raises:
        VicinalError: the stream failed, and not for a server that went away.
    """
    failures = 0
    while not pending.done:
        stream = start(pending.requests())
        try:
            for reply in stream:
                failures = 0
                yield from pending.accept(reply)
            pending.check()
        except grpc.RpcError as error:
            found = to_error(error)
            failures += 1
            if not isinstance(found, UnavailableError) or failures >= retry.attempt_count:
                raise found from error
            time.sleep(retry.wait_s(failures - 1))
        finally:
            stream.cancel()


async def run_async(
    pending: Pending,
    start: Callable[[AsyncIterator[pb.StreamSearchRequest]], Any],
    to_error: ToError,
    retry: RetryPolicy,
) -> AsyncIterator[SearchResult | VicinalError]:
    """Drives a stream of the asyncio client; as ``run_sync``."""
    failures = 0
    room = asyncio.Event()
    while not pending.done:
        stream = start(_requests(pending, room))
        try:
            async for reply in stream:
                failures = 0
                for result in pending.accept(reply):
                    room.set()
                    yield result
            pending.check()
        except grpc.aio.AioRpcError as error:
            found = to_error(error)
            failures += 1
            if not isinstance(found, UnavailableError) or failures >= retry.attempt_count:
                raise found from error
            await asyncio.sleep(retry.wait_s(failures - 1))
        finally:
            stream.cancel()


async def _requests(pending: Pending, room: asyncio.Event) -> AsyncIterator[pb.StreamSearchRequest]:
    epoch = pending.open()
    while True:
        room.clear()
        try:
            request = pending.take(epoch, wait=False)
        except BlockingIOError:
            await room.wait()
            continue
        if request is None:
            return
        yield request
