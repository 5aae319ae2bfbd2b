"""One connection: takes frames apart and gives every call to its handler."""

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from typing_extensions import override

from serving.http2.heads import CLOSING, OPENING, Head, HeadReader, plain_answer, trailers
from serving.http2.link import Limits, Link
from serving.http2.messages import PREFIX_BYTES, framed
from serving.http2.stream import Stream
from serving.http2.turns import Turns
from vicinal.http2 import frames
from vicinal.http2.frames import ConnectionFaultError, ErrorCode, Kind, frame

_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
_MOST_HEADER_BYTES = 65_536
_CONTINUATION = int(Kind.CONTINUATION)
_OPENING_FRAME = frame(Kind.HEADERS, frames.END_HEADERS, 0, OPENING)[:5]
_CLOSING_FRAME = frame(Kind.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, CLOSING)[:5]
Handlers = Callable[[str], Any]
"""From the full name of an RPC to its handler, None where there is none."""


class Connection(Link):
    """One connection.

    Args:
        handlers: finds what answers a call.
        limits: what it may take.
        open_links: where it stands while it is open.
        turns: says when a call is answered that takes no task.
    """

    def __init__(self, handlers: Handlers, limits: Limits, open_links: set[Link], turns: Turns) -> None:
        super().__init__(limits, open_links)
        self.waiting_calls = 0
        """Calls that wait for their turn, those included that the caller has taken back."""
        self._turns = turns
        self._handlers = handlers
        self._reader = HeadReader()
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None
        takers: Mapping[int, Callable[[int, int, bytes], None]] = {
            Kind.DATA: self._on_data,
            Kind.HEADERS: self._on_headers,
            Kind.CONTINUATION: self._on_continuation,
            Kind.RST_STREAM: self._on_reset,
            Kind.SETTINGS: self._on_settings,
            Kind.PING: self._on_ping,
            Kind.WINDOW_UPDATE: self._on_window,
            Kind.PUSH_PROMISE: self._on_push,
        }
        # Plain numbers: members of an enumeration are slower to look up.
        self._takers = {int(kind): taker for kind, taker in takers.items()}

    @override
    def data_received(self, data: bytes) -> None:
        self.heard_s = self.loop.time()
        self._receiving = True
        try:
            self._take(self._rest + data if self._rest else data)
        except ConnectionFaultError as error:
            self.close(error.code, str(error))
        finally:
            self._receiving = False
        self.flush()

    def _take(self, data: bytes) -> None:
        at, end = 0 if self._greeted else self._greet(data), len(data)
        if not self._greeted:
            self._rest = data
            return
        takers = self._takers
        while end - at >= frames.HEADER_BYTES and not self._closing:
            size = int.from_bytes(data[at : at + 3], "big")
            if size > frames.MAX_FRAME_BYTES:
                raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, f"a frame has {size} bytes")
            begin = at + frames.HEADER_BYTES
            if end - begin < size:
                break
            kind, number = data[at + 3], int.from_bytes(data[at + 5 : begin], "big") & frames.MAX_WINDOW
            if self._block is not None and kind != _CONTINUATION:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "headers were broken off")
            taker = takers.get(kind)
            if taker is not None:
                taker(data[at + 4], number, data[begin : begin + size])
            at = begin + size
        self._rest = data[at:]

    def _greet(self, data: bytes) -> int:
        """Returns where frames begin: behind the preface, or nowhere yet."""
        length = len(frames.PREFACE)
        if not frames.PREFACE.startswith(data[:length]):
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "this port speaks gRPC over HTTP/2")
        self._greeted = len(data) >= length
        return length if self._greeted else 0

    # Frames of calls.

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        block = frames.without_padding(flags, payload)
        if flags & frames.END_HEADERS:
            self._begin(flags, number, block)
        else:
            self._block = (flags, number, bytearray(block))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != number:
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "headers go on that did not begin")
        first, _, block = self._block
        block += payload
        self._count_idle()
        if len(block) > _MOST_HEADER_BYTES:
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too long")
        if flags & frames.END_HEADERS:
            self._block = None
            self._begin(first, number, bytes(block))

    def _begin(self, flags: int, number: int, block: bytes) -> None:
        head = self._reader.read(block)
        stream = self.streams.get(number)
        if stream is not None:
            # Trailers of the caller: nothing in them matters.
            stream.receive(b"", ended=True)
            return
        if number <= self._last or not number & 1:
            if number & 1:
                return
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, f"a call has number {number}")
        # Also of a call that is refused: what was sent of it is under way.
        self._last = number
        if max(len(self.streams), self.waiting_calls) >= self.limits.streams or self._leaving:
            # The caller may try another server: nothing of the call was done.
            self._out.append(frames.reset(number, ErrorCode.REFUSED_STREAM))
            self._count_idle()
            return
        handler = self._handlers(head.path) if head.http_status == 200 else None
        if handler is None:
            self._turn_away(number, head)
            return
        stream = self.streams[number] = Stream(self, number, head, handler)
        ended = bool(flags & frames.END_STREAM)
        if ended or handler.request_streaming:
            stream.receive(b"", ended=ended)

    def _turn_away(self, number: int, head: Head) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        if head.http_status != 200:
            block = plain_answer(head.http_status)
        else:
            block = OPENING + trailers(_UNIMPLEMENTED, f"this server has no {head.path}")
        self._out.append(frame(Kind.HEADERS, flags, number, block))
        self._out.append(frames.reset(number, ErrorCode.NO_ERROR))
        self._count_idle()

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if flags & frames.PADDED:
            payload = frames.without_padding(flags & frames.PADDED, payload)
        stream = self.streams.get(number)
        if stream is None or stream.ended or stream.closing is not None:
            if number > self._last or not number:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, f"data of a call {number} that did not begin")
            self.allow_all(size)
            self._count_idle()
            return
        ended = bool(flags & frames.END_STREAM)
        if ended and size == len(payload) and _is_whole(stream, payload):
            stream.ended = True
            self._turns.take(self, stream, payload)
            return
        if not payload and not ended:
            self._count_idle()
        if size > len(payload):
            self.allow(stream, size - len(payload))
        stream.receive(payload, ended=ended)

    def still_wants(self, stream: Stream, payload: bytes) -> bool:
        """Returns whether a call that has waited for its turn is to be answered; ends it where its time is over."""
        if stream.closing is None and self.streams.get(stream.number) is stream:
            if stream.time_remaining() != 0:
                return True
            stream.expire()
        self.allow_all(len(payload))
        return False

    def turn_away(self, stream: Stream, payload: bytes) -> None:
        """Gives a call to its coroutine, which is to say that too many wait."""
        self.allow_all(len(payload))
        stream.turned_away = True
        stream.begin(payload[PREFIX_BYTES:])

    def answer(self, stream: Stream, payload: bytes) -> None:
        """Answers a call whose one message lies whole in one frame; without a task where its handler can."""
        reply = stream.handler.at_once(payload[PREFIX_BYTES:], stream)
        self.allow_all(len(payload))
        if reply is None:
            stream.begin(payload[PREFIX_BYTES:])
            return
        self._idle_frames = 0
        size = len(reply) + PREFIX_BYTES
        if size <= self._window and size <= stream.window and size <= self._frame_bytes:
            self._window -= size
            del self.streams[stream.number]
            number, length = stream.number.to_bytes(4, "big"), len(reply).to_bytes(4, "big")
            # Headers, data with a message that is not compressed, and trailers, as ``frame`` would write them.
            self._out += (
                _OPENING_FRAME,
                number,
                OPENING,
                size.to_bytes(3, "big"),
                b"\0\0",
                number,
                b"\0",
                length,
                reply,
            )
            self._out += (_CLOSING_FRAME, number, CLOSING)
        else:
            stream.outgoing += framed(reply)
            stream.finish(0, "")


def _is_whole(stream: Stream, payload: bytes) -> bool:
    """Returns whether the data that ends a call is one message, and its handler answers such without a task."""
    if stream.handler.at_once is None or stream.reader is not None or len(payload) < PREFIX_BYTES or payload[0]:
        return False
    return int.from_bytes(payload[1:PREFIX_BYTES], "big") == len(payload) - PREFIX_BYTES
