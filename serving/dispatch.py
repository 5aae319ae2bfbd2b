"""Searches for one batch after the other in one thread; the queries that come meanwhile make the next batch.

For indexes that one batch serves better than its queries one by one: a scan, which reads every vector whatever the
number of queries, and an index on a GPU, which is not safe for concurrent reads. Nobody waits for a batch to
fill: a lone query is searched at once.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serving.context import Call
from serving.fast import FastPath
from vicinal.errors import VicinalError
from vicinal.v1 import search_service_pb2 as pb

_MOST_AT_ONCE = 64


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """One query that waits."""

    fast: FastPath
    request: pb.SearchRequest
    options: bytes
    call: Call
    reply: "asyncio.Future[bytes]"


class SearchDispatcher:
    """Answers plain vector queries, one batch at a time."""

    def __init__(self) -> None:
        self.batch_count = 0
        """Batches searched so far."""
        self._waiting: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dispatch")

    async def search(self, fast: FastPath, request: pb.SearchRequest, call: Call) -> bytes:
        """Answers one query together with those that wait too.

        Args:
            fast: what answers.
            request: a plain request with a vector.
            call: whose deadline is checked before the search.

        Returns:
            The serialized SearchResponse.

        Raises:
            VicinalError: as ``FastPath.search`` raises it.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            fast=fast,
            request=request,
            options=request.options.SerializeToString(),
            call=call,
            reply=loop.create_future(),
        )
        self._waiting.append(waiting)
        if self._pump is None or self._pump.done():
            self._pump = loop.create_task(self._work())
        return await waiting.reply

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            self.batch_count += 1
            try:
                replies = await loop.run_in_executor(self._thread, _search_all, batch)
            except Exception as error:  # noqa: BLE001 - it is raised in every call that waits
                replies = [error] * len(batch)
            for waiting, reply in zip(batch, replies, strict=True):
                if waiting.reply.done():
                    continue
                if isinstance(reply, Exception):
                    waiting.reply.set_exception(reply)
                else:
                    waiting.reply.set_result(reply)

    def _take(self) -> list[_Waiting]:
        """Returns the first query and those that one search answers with it; what nobody waits for is dropped."""
        first, batch = self._waiting[0], list[_Waiting]()
        others = deque[_Waiting]()
        for waiting in self._waiting:
            if waiting.reply.done():
                continue
            if waiting.fast is not first.fast or waiting.options != first.options or len(batch) >= _MOST_AT_ONCE:
                others.append(waiting)
                continue
            try:
                waiting.call.check()
            except VicinalError as error:
                waiting.reply.set_exception(error)
            else:
                batch.append(waiting)
        self._waiting = others
        return batch


def _search_all(batch: Sequence[_Waiting]) -> list[bytes | Exception]:
    if len(batch) > 1:
        try:
            found = batch[0].fast.many([waiting.request.query for waiting in batch], options=batch[0].request.options)
        except VicinalError:
            # One of them is wrong; alone, each gets its own answer.
            pass
        else:
            return list(found)
    return [_search_one(waiting) for waiting in batch]


def _search_one(waiting: _Waiting) -> bytes | Exception:
    try:
        return waiting.fast.search(waiting.request)
    except VicinalError as error:
        return error
