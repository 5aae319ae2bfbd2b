"""Answers a stream of queries: each under its number, in any order, together where they came together.

While one batch is being searched in a thread, further queries arrive and make the next: a batch is
never waited for, and a lone query is answered at once.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from serving.config import LimitsConfig
from serving.context import Call
from serving.fast import FastPath
from serving.plain import is_nearly_plain, is_plain
from serving.wire_bytes import varint
from vicinal.codec import encode_error
from vicinal.errors import VicinalError
from vicinal.v1 import search_service_pb2 as pb

_MOST_AT_ONCE = 32


class Run(Protocol):
    """Runs a function in a thread."""

    def __call__(self, function: Callable[..., Any], /, *args: Any) -> Awaitable[Any]:
        """Returns what the function returns."""


class SearchStream:
    """One StreamSearch call.

    Args:
        search: answers a request of any form.
        fast_path: what answers plain requests, None where the index is not quick.
        run: runs a function in a thread.
        limits: the limits of the server.
    """

    def __init__(
        self,
        *,
        search: Callable[[pb.SearchRequest, Call], Awaitable[pb.SearchResponse | bytes]],
        fast_path: Callable[[], FastPath | None],
        run: Run,
        limits: LimitsConfig,
    ) -> None:
        self._search = search
        self._fast_path = fast_path
        self._run = run
        self._limits = limits
        self._window = asyncio.Semaphore(limits.stream_window)
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._plain: deque[pb.StreamSearchRequest] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def answers(self, requests: AsyncIterator[pb.StreamSearchRequest], call: Call) -> AsyncIterator[bytes]:
        """Yields the serialized answers as they are found.

        Args:
            requests: the requests; no more are read than the window allows.
            call: the call.
        """
        reader = asyncio.create_task(self._read(requests, call))
        reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (reply := await self._answers.get()) is not None:
                yield reply
                self._window.release()
            await reader
        except BaseExceptionGroup as group:
            # A message that is none ends the stream as a call, with its own error.
            raise group.exceptions[0] from None
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.StreamSearchRequest], call: Call) -> None:
        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await self._window.acquire()
                search = request.search
                if not _is_plain_vector(search) or not self._is_quick():
                    group.create_task(self._answer(request, call))
                    continue
                self._plain.append(request)
                if self._pump is None or self._pump.done():
                    self._pump = group.create_task(self._answer_plain(call))

    def _is_quick(self) -> bool:
        try:
            return self._fast_path() is not None
        except VicinalError:
            return False

    async def _answer(self, request: pb.StreamSearchRequest, call: Call) -> None:
        try:
            found = await self._search(request.search, call)
            reply = found if isinstance(found, bytes) else found.SerializeToString()
        except VicinalError as error:
            self._answers.put_nowait(_refuse(request, error))
        else:
            self._answers.put_nowait(_wrap(request, reply))

    async def _answer_plain(self, call: Call) -> None:
        while self._plain:
            batch = [self._plain.popleft() for _ in range(min(len(self._plain), _MOST_AT_ONCE))]
            fast = self._fast_path()
            if fast is None:
                for request in batch:
                    await self._answer(request, call)
                continue
            # Alone and of the snapshot's own effort it takes less than a thread's switch.
            at_once = len(batch) == 1 and is_plain(batch[0].search.options)
            replies = _search_all(fast, batch) if at_once else await self._run(_search_all, fast, batch)
            for reply in replies:
                self._answers.put_nowait(reply)


def _is_plain_vector(search: pb.SearchRequest) -> bool:
    kind = search.query.WhichOneof("query")
    named = search.snapshot or search.query.vector.fingerprint
    return kind == "vector" and not named and is_nearly_plain(search.options)


def _search_all(fast: FastPath, requests: Sequence[pb.StreamSearchRequest]) -> list[bytes]:
    by_options: defaultdict[bytes, list[pb.StreamSearchRequest]] = defaultdict(list)
    for request in requests:
        by_options[request.search.options.SerializeToString()].append(request)
    replies: list[bytes] = []
    for group in by_options.values():
        replies += _search_group(fast, group)
    return replies


def _search_group(fast: FastPath, group: Sequence[pb.StreamSearchRequest]) -> list[bytes]:
    if len(group) > 1:
        try:
            found = fast.many([request.search.query for request in group], options=group[0].search.options)
        except VicinalError:
            # One of them is wrong; alone, each gets its own answer.
            return [_search_one(fast, request) for request in group]
        return [_wrap(request, reply) for request, reply in zip(group, found, strict=True)]
    return [_search_one(fast, group[0])]


def _search_one(fast: FastPath, request: pb.StreamSearchRequest) -> bytes:
    try:
        return _wrap(request, fast.search(request.search))
    except VicinalError as error:
        return _refuse(request, error)


def _wrap(request: pb.StreamSearchRequest, reply: bytes) -> bytes:
    number = request.sequence & 0xFFFF_FFFF_FFFF_FFFF
    sequence = b"\x08" + varint(number) if number else b""
    return b"".join((sequence, b"\x12", varint(len(reply)), reply))


def _refuse(request: pb.StreamSearchRequest, error: VicinalError) -> bytes:
    message = pb.StreamSearchResponse(sequence=request.sequence, error=encode_error(error))
    raw: bytes = message.SerializeToString()
    return raw
