"""One connection of our own HTTP/2 client, whatever carries its bytes: requests, replies, and both windows."""

from collections.abc import Callable, Iterable
from typing import Any

from hpack import HPACKError

from vicinal.client.exchange import (
    BY_RESET,
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    UNAVAILABLE,
    Exchange,
    LostCallError,
)
from vicinal.client.outlet import Outlet
from vicinal.http2 import frames
from vicinal.http2.blocks import BlockReader
from vicinal.http2.frames import ErrorCode, Kind, Setting, frame

KEEPALIVE_S = 30.0
"""Silence after which the server is asked whether it is there."""
KEEPALIVE_WAIT_S = 10.0
"""Silence after that which ends the connection."""
PING = frame(Kind.PING, 0, 0, b"vicinal?")
_WINDOW = 1 << 30
_FRAME_BYTES = 1 << 20


class Link:
    """One connection; it ends for good when the server or the network ends it.

    Args:
        make_done: makes what tells how a call ended: a future, or what is like one.
    """

    def __init__(self, make_done: Callable[[], Any]) -> None:
        self.usable = True
        """Whether new calls may be sent on it."""
        self._make_done = make_done
        self._blocks = BlockReader(_fields_of, most_bytes=1 << 20)
        self._exchanges: dict[int, Exchange] = {}
        self._next = 1
        self._rest = b""
        self._block: tuple[int, int, bytes] | None = None
        self._outlet = Outlet(self._exchanges, most_frame_bytes=_FRAME_BYTES)
        self._received = 0
        self._most_calls: int | None = None
        self._takers = {
            int(Kind.DATA): self._on_data,
            int(Kind.HEADERS): self._on_headers,
            int(Kind.CONTINUATION): self._on_continuation,
            int(Kind.RST_STREAM): self._on_reset,
            int(Kind.SETTINGS): self._on_settings,
            int(Kind.PING): self._on_ping,
            int(Kind.GOAWAY): self._on_go_away,
            int(Kind.WINDOW_UPDATE): self._on_window,
        }

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return len(self._exchanges)

    @property
    def is_full(self) -> bool:
        """Whether the server takes no further call now; until it has said how many it takes, one."""
        return len(self._exchanges) >= (1 if self._most_calls is None else self._most_calls)

    def send(self, head: bytes, body: bytes) -> tuple[int, Exchange]:
        """Sends a request.

        Args:
            head: the block of its headers.
            body: its message with the prefix.

        Returns:
            Its number, and where its reply will be.
        """
        number, exchange = self._begin()
        opening = frame(Kind.HEADERS, frames.END_HEADERS, number, head)
        self._outlet.begin(number, exchange, opening, body)
        return number, exchange

    def open(self, head: bytes, take: Callable[[bytes], None]) -> tuple[int, Exchange]:
        """Begins a call whose messages come one by one.

        Args:
            head: the block of its headers.
            take: gets what comes of the replies, in pieces of any size.

        Returns:
            Its number, and how it ends.
        """
        number, exchange = self._begin()
        exchange.take, exchange.is_whole = take, False
        self._outlet.write(frame(Kind.HEADERS, frames.END_HEADERS, number, head))
        return number, exchange

    def push(self, number: int, body: bytes, *, last: bool) -> None:
        """Sends more of a call that was opened.

        Args:
            number: of the call.
            body: a message with its prefix; may be empty with ``last``.
            last: whether nothing follows.
        """
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        exchange.outgoing += body
        exchange.is_whole = last
        if last and not exchange.outgoing:
            self._outlet.write(frame(Kind.DATA, frames.END_STREAM, number))
        self._outlet.push(number, exchange)

    def give_up(self, number: int) -> None:
        """Tells the server that nobody waits for a reply any more."""
        if self._exchanges.pop(number, None) is not None:
            self._outlet.write(frames.reset(number, ErrorCode.CANCEL))
        self._call_next()

    def close(self) -> None:
        """Ends the connection and its calls."""
        self.end(CANCELLED, "the client was closed")

    def expire(self, number: int) -> None:
        """Ends a call whose deadline has passed."""
        if number in self._exchanges:
            self._outlet.write(frames.reset(number, ErrorCode.CANCEL))
            self._fail(number, DEADLINE_EXCEEDED, "Deadline Exceeded")

    def greet(self, transport: Any) -> None:
        """Begins the connection.

        Args:
            transport: has ``write``, ``close`` and ``is_closing``, as asyncio's.
        """
        self._outlet.transport = transport
        told: dict[int, int] = {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: _WINDOW,
            Setting.MAX_FRAME_SIZE: _FRAME_BYTES,
        }
        more = frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        self._outlet.write(frames.PREFACE + frames.settings(told) + more)

    def receive(self, data: bytes) -> None:
        """Takes what came of the server."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        try:
            while end - at >= frames.HEADER_BYTES:
                size, begin = int.from_bytes(data[at : at + 3], "big"), at + frames.HEADER_BYTES
                if size > _FRAME_BYTES:
                    self.end(UNAVAILABLE, "what answers does not speak HTTP/2, or wants TLS")
                    return
                if end - begin < size:
                    break
                taker = self._takers.get(data[at + 3])
                if taker is not None:
                    number = int.from_bytes(data[at + 5 : begin], "big") & frames.MAX_WINDOW
                    taker(data[at + 4], number, data[begin : begin + size])
                at = begin + size
        except (HPACKError, frames.ConnectionFaultError, UnicodeDecodeError) as error:
            self.end(INTERNAL, f"the server broke the protocol: {error}")
            return
        self._rest = data[at:]

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = frames.without_padding(flags, payload)
        if flags & frames.END_HEADERS:
            self._take_block(flags, number, block)
        else:
            self._block = (flags, number, block)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        del number
        if self._block is None:
            return
        first, number, block = self._block
        self._block = (first, number, block + payload)
        if flags & frames.END_HEADERS:
            self._block = None
            self._take_block(first, number, block + payload)

    def _take_block(self, flags: int, number: int, block: bytes) -> None:
        fields = self._blocks.read(block)
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        exchange.fields.update(fields)
        if flags & frames.END_STREAM:
            self._finish(number, exchange)

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _WINDOW // 2:
            self._outlet.write(frames.window_update(0, self._received))
            self._received = 0
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        content = frames.without_padding(flags & frames.PADDED, payload)
        if exchange.take is None:
            exchange.data += content
        else:
            exchange.take(content)
            exchange.received += len(payload)
            if exchange.received >= _WINDOW // 2 and not flags & frames.END_STREAM:
                self._outlet.write(frames.window_update(number, exchange.received))
                exchange.received = 0
        if flags & frames.END_STREAM:
            self._finish(number, exchange)

    def _begin(self) -> tuple[int, Exchange]:
        number, self._next = self._next, self._next + 2
        if self._next > frames.MAX_WINDOW - 2:
            self.usable = False
        exchange = self._exchanges[number] = Exchange(self._make_done(), self._outlet.initial_window)
        return number, exchange

    def _finish(self, number: int, exchange: Exchange) -> None:
        del self._exchanges[number]
        if not exchange.done.done():
            exchange.done.set_result(exchange)
        self._call_next()

    def _call_next(self) -> None:
        """There may be room for a call more."""

    def _call_all(self) -> None:
        """The server has said how many calls it takes, or the connection is over."""

    def _fail(self, number: int, code: int, details: str) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(LostCallError(code, details))
        self._call_next()

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        code = int.from_bytes(payload, "big")
        self._fail(number, BY_RESET.get(code, INTERNAL), f"the server ended the call with code {code}")

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        del number
        if flags & frames.ACK:
            return
        self._most_calls = frames.MAX_WINDOW if self._most_calls is None else self._most_calls
        for at in range(0, len(payload) // 6 * 6, 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._outlet.allow(initial_window=value)
            elif key == Setting.MAX_FRAME_SIZE:
                self._outlet.allow(frame_bytes=value)
            elif key == Setting.MAX_CONCURRENT_STREAMS:
                self._most_calls = value
        self._outlet.write(frame(Kind.SETTINGS, frames.ACK, 0))
        self._outlet.push_all()
        self._call_all()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        del number
        if not flags & frames.ACK:
            self._outlet.write(frame(Kind.PING, frames.ACK, 0, payload))

    def _on_go_away(self, flags: int, number: int, payload: bytes) -> None:
        del flags, number
        self.usable = False
        last, why = int.from_bytes(payload[:4], "big") & frames.MAX_WINDOW, payload[8:].decode("utf-8", "replace")
        for later in [one for one in self._exchanges if one > last]:
            self._fail(later, UNAVAILABLE, why or "the server goes away")
        if not self._exchanges:
            self._outlet.transport.close()

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        self._outlet.widen(number, int.from_bytes(payload, "big") & frames.MAX_WINDOW)

    def end(self, code: int, details: str) -> None:
        """Ends the connection and its calls.

        Args:
            code: status code of gRPC of its calls.
            details: what happened.
        """
        self.usable = False
        for number in list(self._exchanges):
            self._fail(number, code, details)
        self._call_all()
        if self._outlet.transport is not None:
            self._outlet.transport.close()


def _fields_of(fields: Iterable[Any]) -> dict[str, str]:
    return {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in fields}
