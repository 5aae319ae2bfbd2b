"""A stream of messages both ways, of the asyncio client."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from vicinal.client.exchange import PREFIX_BYTES, Exchange, LostCallError, call_error, check_status, framed
from vicinal.client.wire_link import WireLink

_MOST_WAITING = 1 << 22
_ROOM_S = 0.005


class WireStream:
    """One call; begins when it is iterated over, which yields the replies.

    Args:
        connect: returns a connection that takes one call more.
        head: the block of its headers.
        requests: what to send, as it comes.
        serialize: from a request to bytes.
        deserialize: from bytes to a reply.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[WireLink]],
        head: bytes,
        requests: AsyncIterator[Any],
        *,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._connect = connect
        self._head = head
        self._requests = requests
        self._serialize = serialize
        self._deserialize = deserialize
        self._came = asyncio.Event()
        self._messages: deque[bytes] = deque()
        self._rest = bytearray()
        self._fault = ""
        self._call: tuple[WireLink, int] | None = None
        self._sender: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Ends the call, if it has not ended."""
        if self._sender is not None:
            self._sender.cancel()
        if self._call is not None:
            link, number = self._call
            link.give_up(number)
        self._call = self._sender = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yields the replies.

        Raises:
            grpc.aio.AioRpcError: the call failed.
        """
        try:
            link = await self._connect()
            number, exchange = link.open(self._head, self._take)
            self._call = (link, number)
            exchange.done.add_done_callback(self._ended)
            self._sender = asyncio.create_task(self._send(link, number, exchange))
            while True:
                self._came.clear()
                while self._messages:
                    yield self._deserialize(self._messages.popleft())
                if self._fault:
                    raise call_error(grpc.StatusCode.INTERNAL, self._fault)
                if exchange.done.done():
                    break
                await self._came.wait()
            check_status(exchange.done.result().fields)
        except LostCallError as error:
            raise error.as_grpc() from error
        finally:
            self.cancel()

    async def _send(self, link: WireLink, number: int, exchange: Exchange) -> None:
        try:
            async for request in self._requests:
                while len(exchange.outgoing) > _MOST_WAITING:
                    await asyncio.sleep(_ROOM_S)
                link.push(number, framed(self._serialize(request)), last=False)
        except Exception as error:  # noqa: BLE001 - it is raised where the replies are awaited
            self._fault = f"the requests could not be sent: {error}"
            self._came.set()
        else:
            link.push(number, b"", last=True)

    def _ended(self, done: "asyncio.Future[Exchange]") -> None:
        if not done.cancelled():
            # Looked at, so that nobody complains where the caller has gone.
            done.exception()
        self._came.set()

    def _take(self, content: bytes) -> None:
        rest = self._rest
        rest += content
        at, end = 0, len(rest)
        while end - at >= PREFIX_BYTES:
            size = int.from_bytes(rest[at + 1 : at + PREFIX_BYTES], "big")
            if rest[at]:
                self._fault = "a reply is compressed, which was not asked for"
                break
            if end - at - PREFIX_BYTES < size:
                break
            at += PREFIX_BYTES
            self._messages.append(bytes(memoryview(rest)[at : at + size]))
            at += size
        if at:
            del rest[:at]
        self._came.set()
