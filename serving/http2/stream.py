"""One call on a connection: what came of it, what is to be sent, and what its handler may ask."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from serving.http2.heads import Head, Metadata, trailers
from serving.http2.messages import MessageReader, framed
from vicinal.errors import OverloadedError, VicinalError
from vicinal.http2.frames import ConnectionFaultError, ErrorCode

if TYPE_CHECKING:
    from serving.http2.link import Link

logger = logging.getLogger(__name__)
_HELD_BYTES = 1 << 18
"""Bytes of whole messages that may wait for a handler before the sender is slowed down."""
_MOST_MESSAGES = 4
"""Messages of the greatest length that may be under way on one connection."""


class AbortedCallError(Exception):
    """Ends a handler whose call has its status."""


class Stream:
    """One call; to its handler it is what ``grpc.aio.ServicerContext`` is.

    Args:
        connection: what it came on.
        number: of the stream.
        head: its headers.
        handler: what answers it.
    """

    __slots__ = (
        "_arrived",
        "_deadline",
        "_held_bytes",
        "_messages",
        "_status",
        "_timer",
        "_unpaid",
        "closing",
        "connection",
        "credit",
        "drained",
        "ended",
        "handler",
        "head",
        "number",
        "opened",
        "outgoing",
        "reader",
        "task",
        "traced",
        "turned_away",
        "waited_s",
        "window",
    )

    def __init__(self, connection: "Link", number: int, head: Head, handler: Any) -> None:
        self.connection = connection
        self.number = number
        self.head = head
        self.handler = handler
        self.ended = False
        """Whether the caller has sent everything."""
        self.opened = False
        """Whether the headers of the reply have been sent."""
        self.outgoing = bytearray()
        """Data that waits for the caller's window."""
        self.closing: bytes | None = None
        """Trailers that follow it."""
        self.window = connection.initial_window
        """Bytes that the caller takes."""
        self.task: asyncio.Task[None] | None = None
        self.drained: asyncio.Event | None = None
        self.traced: bool | None = None
        """Whether the call is traced, once that is decided."""
        self.turned_away = False
        """Whether it is one too many."""
        self.waited_s = 0.0
        """How long it waited for its turn."""
        self.credit = 0
        """Bytes that the caller may send again and has not been told of."""
        self.reader: MessageReader | None = None
        """What has come of the request; None before anything has."""
        self._messages: deque[bytes] = deque()
        self._arrived: asyncio.Event | None = None
        self._held_bytes = 0
        self._unpaid = 0
        self._status: tuple[int, str, Metadata] = (0, "", ())
        self._timer: asyncio.TimerHandle | None = None
        timeout_s = head.timeout_s
        self._deadline = None if timeout_s is None else connection.heard_s + timeout_s

    # What the caller sends.

    def receive(self, data: bytes, *, ended: bool) -> None:
        """Takes data of the call, and begins to answer when there is enough."""
        reader = self.reader
        if reader is None:
            reader = self.reader = MessageReader(self.connection.limits.message_bytes, self.head.encoding)
            if self._deadline is not None:
                self._timer = self.connection.loop.call_at(self._deadline, self.expire)
        self.ended, before = ended, reader.waiting_bytes
        try:
            messages = reader.feed(data)
            self.connection.buffered_bytes += reader.waiting_bytes - before
            if self.connection.buffered_bytes > _MOST_MESSAGES * self.connection.limits.message_bytes:
                raise OverloadedError("too many long messages at once on one connection; send them one by one")
        except VicinalError as error:
            self.connection.allow_all(len(data))
            self.finish(int(error.code), error.message)
            return
        self._unpaid += len(data)
        if self.handler.request_streaming:
            self._queue(messages)
        else:
            self._pay()
            self._one(messages)

    def _one(self, messages: list[bytes]) -> None:
        self._messages += messages
        count = len(self._messages)
        if count > 1 or (self.ended and count != 1):
            self.finish(grpc.StatusCode.INVALID_ARGUMENT.value[0], f"wanted one request, got {count}")
        elif self.ended and self.task is None:
            request = self._messages.popleft()
            at_once = self.handler.at_once
            reply = None if at_once is None else at_once(request, self)
            if reply is None:
                self._start(request)
            else:
                self.outgoing += framed(reply)
                self.finish(0, "")

    def begin(self, request: bytes) -> None:
        """Begins to answer a request that came whole, with a task."""
        if self._deadline is not None:
            self._timer = self.connection.loop.call_at(self._deadline, self.expire)
        self._start(request)

    def _queue(self, messages: list[bytes]) -> None:
        self._messages += messages
        self._held_bytes += sum(map(len, messages))
        if self._unpaid > 2 * self.connection.limits.stream_window:
            raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "more came than the window allows")
        if self._held_bytes < _HELD_BYTES:
            self._pay()
        if self.task is None:
            self._arrived = asyncio.Event()
            self._start(self._requests(self._arrived))
        if self._arrived is not None:
            self._arrived.set()

    def _pay(self) -> None:
        """Lets the caller send as much again as has come."""
        unpaid, self._unpaid = self._unpaid, 0
        if unpaid:
            self.connection.allow(self, unpaid)

    async def _requests(self, arrived: asyncio.Event) -> AsyncIterator[Any]:
        while True:
            while self._messages:
                raw = self._messages.popleft()
                self._held_bytes -= len(raw)
                if self._held_bytes < _HELD_BYTES:
                    self._pay()
                yield self._decoded(raw)
            if self.ended:
                return
            arrived.clear()
            await arrived.wait()

    # The handler at work.

    def _start(self, request: Any) -> None:
        self.task = self.connection.loop.create_task(self._run(request))

    async def _run(self, request: Any) -> None:
        try:
            await self._answer(request)
        except AbortedCallError:
            pass
        except asyncio.CancelledError:
            self._status = (grpc.StatusCode.CANCELLED.value[0], "the call was cancelled", ())
        except Exception:
            logger.exception("%s failed", self.head.path)
            self._status = (grpc.StatusCode.UNKNOWN.value[0], "a bug in the server; its log has the details", ())
        self.finish(*self._status)

    async def _answer(self, request: Any) -> None:
        handler = self.handler
        if not handler.request_streaming:
            request = self._decoded(request)
        if not handler.response_streaming:
            reply = await (handler.unary_unary or handler.stream_unary)(request, self)
            self.outgoing += framed(self._encoded(reply))
            return
        function = handler.unary_stream or handler.stream_stream
        if inspect.isasyncgenfunction(function):
            async for reply in function(request, self):
                await self.write(reply)
        else:
            await function(request, self)

    def expire(self) -> None:
        """Ends the call because its deadline has passed."""
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "the deadline has passed")

    def finish(self, status: int, message: str, metadata: Metadata = ()) -> None:
        """Sends the status, after everything that waits, and lets go of the call; at most once."""
        if self.closing is not None:
            return
        self.closing = trailers(status, message, metadata)
        if status:
            self.outgoing.clear()
        self.connection.send(self)
        self.stop()

    def stop(self) -> None:
        """Cancels what is still at work for the call."""
        if self._timer is not None:
            self._timer.cancel()
        if self.reader is not None:
            self.connection.buffered_bytes -= self.reader.waiting_bytes
            self.reader = None
        unpaid, self._unpaid = self._unpaid, 0
        self.connection.allow_all(unpaid)
        task = self.task
        if task is not None and not task.done() and task is not _current_task():
            task.cancel()
        if self.drained is not None:
            self.drained.set()

    # What a handler may ask of its call.

    async def write(self, reply: Any) -> None:
        """Sends a reply; waits while the caller takes no more."""
        self.outgoing += framed(self._encoded(reply))
        self.connection.send(self)
        if self.outgoing:
            self.drained = self.drained or asyncio.Event()
            self.drained.clear()
            await self.drained.wait()

    def _decoded(self, raw: bytes) -> Any:
        decode = self.handler.request_deserializer
        try:
            return decode(raw) if decode else raw
        except DecodeError as error:
            self._status = (grpc.StatusCode.INVALID_ARGUMENT.value[0], "the request is no message of this call", ())
            raise AbortedCallError from error

    def _encoded(self, reply: Any) -> bytes:
        encode = self.handler.response_serializer
        raw: bytes = encode(reply) if encode else reply
        return raw

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call with a status.

        Raises:
            AbortedCallError: always.
        """
        self._status = (code.value[0], details, tuple(trailing_metadata))
        raise AbortedCallError

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - self.connection.loop.time())

    def invocation_metadata(self) -> Metadata:
        """Returns the metadata that the caller sent."""
        return self.head.metadata

    def peer(self) -> str:
        """Returns the address of the caller, such as ``ipv4:127.0.0.1:5000``."""
        return self.connection.peer

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns what TLS says of the caller; nothing on plain text."""
        return self.connection.identity


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
