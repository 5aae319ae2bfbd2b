"""The lower half of a connection: both windows, settings, pings, and writing in as few pieces as can be."""

import asyncio
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from serving.http2.caller import NOBODY, address_of, identity_of, speaks_http2
from serving.http2.heads import OPENING
from serving.http2.stream import Stream
from vicinal.http2 import frames
from vicinal.http2.frames import ConnectionFaultError, ErrorCode, Kind, Setting, frame

_MOST_HEADER_BYTES = 65_536
_MOST_IDLE_FRAMES = 10_000
_IDLE_S = 10.0
"""Time in which more of them are a flood."""
_PREFACE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may take."""

    message_bytes: int
    """Longest message."""
    streams: int
    """Calls at once."""
    stream_window: int = 1 << 20
    """Bytes of one call that may be under way to us."""
    connection_window: int = 16 << 20
    """Bytes of all calls that may be under way to us."""
    keepalive_s: float = 30.0
    """Silence after which the other end is asked whether it is there."""
    keepalive_wait_s: float = 10.0
    """How long it may take to answer that."""


class Link(asyncio.Protocol):
    """One connection without its calls.

    Args:
        limits: what it may take.
        open_links: where it stands while it is open.
    """

    def __init__(self, limits: Limits, open_links: "set[Link]") -> None:
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        """Calls in progress, by number."""
        self.initial_window = frames.DEFAULT_WINDOW
        """What a new call may send before the other end says more."""
        self.peer = ""
        """Its address, as gRPC writes it."""
        self.identity = NOBODY
        """What TLS says of it, as gRPC names it."""
        self.buffered_bytes = 0
        """What has come of messages that are not whole yet."""
        self.loop = asyncio.get_running_loop()
        self._open_links = open_links
        self._transport: Any = None
        self._greeted = False
        self._last = 0
        self._window = frames.DEFAULT_WINDOW
        self._frame_bytes = frames.MAX_FRAME_BYTES
        self._credit = 0
        self._out: list[bytes] = []
        self._receiving = False
        self._closing = False
        self._leaving = False
        self._paused = False
        self._idle_frames = 0
        self.heard_s = self.loop.time()
        """When something last came, by the clock of the loop."""
        self._idle_since_s = self.heard_s
        self._keeper: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._open_links.add(self)
        self.peer, self.identity = address_of(transport), identity_of(transport)
        if not speaks_http2(transport):
            self.close(ErrorCode.INADEQUATE_SECURITY, "TLS without HTTP/2: the caller does not offer h2 (ALPN)")
            return
        told: dict[int, int] = {
            Setting.MAX_CONCURRENT_STREAMS: self.limits.streams,
            Setting.INITIAL_WINDOW_SIZE: self.limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: _MOST_HEADER_BYTES,
        }
        self._out.append(frames.settings(told))
        self._out.append(frames.window_update(0, self.limits.connection_window - frames.DEFAULT_WINDOW))
        self.flush()
        self._keeper = self.loop.call_later(min(_PREFACE_S, self.limits.keepalive_s), self._keep)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._open_links.discard(self)
        if self._keeper is not None:
            self._keeper.cancel()
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.stop()

    @override
    def pause_writing(self) -> None:
        # Whoever does not read is not listened to either, so that what waits for him is bounded.
        self._paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    @override
    def resume_writing(self) -> None:
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        for stream in list(self.streams.values()):
            if stream.outgoing:
                self.send(stream)

    def flush(self) -> None:
        """Writes what waits, unless more will come of what is being read."""
        if self._receiving or not self._out:
            return
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def go_away(self) -> None:
        """Tells the other end to call elsewhere; calls in progress go on."""
        self._leaving = True
        if not self._closing and self._greeted:
            self._out.append(frames.go_away(self._last, ErrorCode.NO_ERROR, "the server is shutting down"))
            self.flush()
        elif not self._greeted:
            self.close(ErrorCode.NO_ERROR, "the server is shutting down")

    def close(self, code: ErrorCode, why: str) -> None:
        """Ends the connection, saying why."""
        if self._closing:
            return
        self._closing, self._receiving = True, False
        self._out.append(frames.go_away(self._last, code, why))
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Ends the connection at once, whatever waits."""
        self._transport.abort()

    # What is sent.

    def send(self, stream: Stream) -> None:
        """Sends what waits in a call, as far as the windows allow."""
        number, outgoing, out = stream.number, stream.outgoing, self._out
        if number not in self.streams:
            return
        if outgoing or stream.closing is None:
            head = _opening(stream)
            if head:
                out.append(frame(Kind.HEADERS, frames.END_HEADERS, number, head))
        while (
            outgoing
            and not self._paused
            and (size := min(len(outgoing), self._window, stream.window, self._frame_bytes)) > 0
        ):
            out.append(frame(Kind.DATA, 0, number, bytes(outgoing[:size])))
            del outgoing[:size]
            self._window -= size
            stream.window -= size
        if not outgoing:
            if stream.drained is not None:
                stream.drained.set()
            if stream.closing is not None:
                self._end(stream, stream.closing)
        self.flush()

    def _end(self, stream: Stream, closing: bytes) -> None:
        flags = frames.END_HEADERS | frames.END_STREAM
        self._out.append(frame(Kind.HEADERS, flags, stream.number, _opening(stream) + closing))
        if not stream.ended:
            # The caller may stop sending.
            self._out.append(frames.reset(stream.number, ErrorCode.NO_ERROR))
        del self.streams[stream.number]
        self._idle_frames = 0

    # What is received, and how much more may come.

    def allow(self, stream: Stream, size: int) -> None:
        """Lets the caller send so many bytes more, of this call and of all."""
        self.allow_all(size)
        if stream.ended:
            return
        stream.credit += size
        if stream.credit >= self.limits.stream_window // 4:
            self._out.append(frames.window_update(stream.number, stream.credit))
            stream.credit = 0
        self.flush()

    def allow_all(self, size: int) -> None:
        """Lets the other end send so many bytes more."""
        self._credit += size
        if self._credit >= self.limits.connection_window // 4:
            self._out.append(frames.window_update(0, self._credit))
            self._credit = 0

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6:
            raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, "settings are cut off")
        self._count_idle()
        if flags & frames.ACK:
            return
        for at in range(0, len(payload), 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == Setting.INITIAL_WINDOW_SIZE:
                self._resize(value)
            elif key == Setting.MAX_FRAME_SIZE:
                # Longer frames would be held back by smaller windows.
                self._frame_bytes = max(frames.MAX_FRAME_BYTES, min(value, 1 << 18))
        self._out.append(frame(Kind.SETTINGS, frames.ACK, 0))

    def _resize(self, window: int) -> None:
        if window > frames.MAX_WINDOW:
            raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        change, self.initial_window = window - self.initial_window, window
        for stream in list(self.streams.values()):
            stream.window += change
            if change > 0 and stream.outgoing:
                self.send(stream)

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, "a ping has 8 bytes")
        self._count_idle()
        if not flags & frames.ACK:
            self._out.append(frame(Kind.PING, frames.ACK, 0, payload))

    def _on_window(self, flags: int, number: int, payload: bytes) -> None:
        del flags
        size = int.from_bytes(payload, "big") & frames.MAX_WINDOW
        if len(payload) != 4 or not size:
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        self._count_idle()
        stream = self.streams.get(number)
        if not number:
            self._window += size
        elif stream is not None:
            stream.window += size
        if max(self._window, stream.window if stream else 0) > frames.MAX_WINDOW:
            raise ConnectionFaultError(ErrorCode.FLOW_CONTROL_ERROR, "a window is too large")
        for waiting in [stream] if stream else list(self.streams.values()) if not number else []:
            if waiting.outgoing:
                self.send(waiting)

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        del flags, payload
        self._count_idle()
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.closing = b""
            stream.stop()

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        del flags, number, payload
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a caller cannot push")

    def _count_idle(self) -> None:
        # Frames that lead to no reply are cheap to send and not to take; a stream that lives long has many.
        self._idle_frames += 1
        if self._idle_frames > _MOST_IDLE_FRAMES:
            now_s = self.loop.time()
            if now_s - self._idle_since_s < _IDLE_S:
                raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that lead to nothing")
            self._idle_frames, self._idle_since_s = 0, now_s

    def _keep(self) -> None:
        """Asks a silent end whether it is there; ends the connection when it is not."""
        silent_s, limits = self.loop.time() - self.heard_s, self.limits
        if not self._greeted and silent_s >= min(_PREFACE_S, limits.keepalive_s):
            self.close(ErrorCode.PROTOCOL_ERROR, "no greeting came")
            return
        if silent_s >= limits.keepalive_s + limits.keepalive_wait_s:
            self.abort()
            return
        if silent_s >= limits.keepalive_s:
            self._out.append(frame(Kind.PING, 0, 0, b"vicinal?"))
            self.flush()
        wait_s = limits.keepalive_wait_s if silent_s >= limits.keepalive_s else limits.keepalive_s - silent_s
        self._keeper = self.loop.call_later(max(wait_s, 0.01), self._keep)


def _opening(stream: Stream) -> bytes:
    """Returns the headers of the reply where they are still to be sent, else nothing."""
    if stream.opened:
        return b""
    stream.opened = True
    return OPENING
