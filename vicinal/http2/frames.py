"""Frames of HTTP/2 (RFC 9113): kinds, flags, errors, and how they are written."""

import enum
from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_FRAME_BYTES = 16_384
"""Longest payload that is taken: the least that the protocol allows."""
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1


class Kind(enum.IntEnum):
    """Kinds of frames, section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ended, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class Setting(enum.IntEnum):
    """What the ends tell each other, section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ConnectionFaultError(Exception):
    """The other end broke the protocol; the connection ends with this code."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame.

    Args:
        kind: one of ``Kind``.
        flags: its flags.
        stream: number of the stream, 0 for the connection.
        payload: its content, at most as long as the other end takes.
    """
    head = (len(payload) << 48 | kind << 40 | flags << 32 | stream).to_bytes(HEADER_BYTES, "big")
    return head + payload


def settings(values: Mapping[int, int]) -> bytes:
    """Returns the frame that tells settings."""
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(Kind.SETTINGS, 0, 0, payload)


def window_update(stream: int, size: int) -> bytes:
    """Returns the frame that allows so many bytes more."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: ErrorCode) -> bytes:
    """Returns the frame that ends a stream at once."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def go_away(last_stream: int, code: ErrorCode, why: str = "") -> bytes:
    """Returns the frame after which no stream beyond the last is answered."""
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode()[:256]
    return frame(Kind.GOAWAY, 0, 0, payload)


def without_padding(flags: int, payload: bytes) -> bytes:
    """Returns what a DATA or HEADERS frame holds besides padding and priority.

    Raises:
        ConnectionFaultError: there is more padding than frame.
    """
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame is empty")
        start, end = 1, end - payload[0]
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than content")
    return payload[start:end]
