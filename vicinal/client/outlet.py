"""What one connection of our own HTTP/2 client sends of its calls, within the windows that the server gives."""

from collections.abc import Callable, Mapping
from typing import Any

from vicinal.client.exchange import Exchange
from vicinal.http2 import frames
from vicinal.http2.frames import Kind, frame


class Outlet:
    """Sends the messages of calls.

    Args:
        exchanges: the calls of the connection by number, as they come and go.
        most_frame_bytes: of a frame, whatever the server allows.
    """

    def __init__(self, exchanges: Mapping[int, Exchange], *, most_frame_bytes: int) -> None:
        self.transport: Any = None
        self.soon: Callable[[Callable[[], None]], Any] | None = None
        """Runs a function when what runs now has run; None where there is no event loop."""
        self._waiting: list[bytes] = []
        self._exchanges = exchanges
        self._most_frame_bytes = most_frame_bytes
        self._window = self._initial_window = frames.DEFAULT_WINDOW
        self._frame_bytes = frames.MAX_FRAME_BYTES

    @property
    def initial_window(self) -> int:
        """Bytes that a new call may send."""
        return self._initial_window

    def begin(self, number: int, exchange: Exchange, opening: bytes, body: bytes) -> None:
        """Sends the headers and the only message of a call.

        Args:
            number: of the call.
            exchange: the call.
            opening: the frame of its headers.
            body: its message with the prefix.
        """
        size = len(body)
        if size <= self._window and size <= exchange.window and size <= self._frame_bytes:
            self._window -= size
            self.write(opening + frame(Kind.DATA, frames.END_STREAM, number, body))
        else:
            exchange.outgoing = body
            self.write(opening)
            self.push(number, exchange)

    def push(self, number: int, exchange: Exchange) -> None:
        """Sends as much of what waits as the windows allow."""
        out = []
        while exchange.outgoing:
            size = min(len(exchange.outgoing), self._window, exchange.window, self._frame_bytes)
            if size <= 0:
                break
            piece, exchange.outgoing = exchange.outgoing[:size], exchange.outgoing[size:]
            self._window -= size
            exchange.window -= size
            ends = exchange.is_whole and not exchange.outgoing
            out.append(frame(Kind.DATA, frames.END_STREAM if ends else 0, number, piece))
        if out:
            self.write(b"".join(out))

    def write(self, data: bytes) -> None:
        """Sends bytes; nothing where the connection is lost, which ends its calls in a moment.

        What several calls send in one turn of the event loop goes out together.
        """
        if self.soon is not None and (self._waiting or len(self._exchanges) > 1):
            if not self._waiting:
                self.soon(self._flush)
            self._waiting.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def _flush(self) -> None:
        data, self._waiting = b"".join(self._waiting), []
        if not self.transport.is_closing():
            self.transport.write(data)

    def widen(self, number: int, size: int) -> None:
        """Takes the server's word that it takes more, of one call or (0) of all together."""
        exchange = self._exchanges.get(number)
        if not number:
            self._window += size
        elif exchange is not None:
            exchange.window += size
        self.push_all()

    def allow(self, *, initial_window: int | None = None, frame_bytes: int | None = None) -> None:
        """Takes the server's settings."""
        if initial_window is not None:
            change, self._initial_window = initial_window - self._initial_window, initial_window
            for exchange in self._exchanges.values():
                exchange.window += change
        if frame_bytes is not None:
            self._frame_bytes = min(frame_bytes, self._most_frame_bytes)

    def push_all(self) -> None:
        """Sends as much of every call as the windows allow."""
        for number, exchange in list(self._exchanges.items()):
            if exchange.outgoing:
                self.push(number, exchange)
