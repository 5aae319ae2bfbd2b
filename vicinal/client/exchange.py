"""One call over our own HTTP/2: its request, its reply, and how it may fail."""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc

from vicinal.http2.fields import decode_binary, decode_message, literal
from vicinal.http2.frames import ErrorCode

PREFIX_BYTES = 5
PLAIN, SECURE = b"\x86", b"\x87"
"""The schemes http and https: entries 6 and 7 of the fixed table of headers (RFC 7541, appendix A)."""
CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE = 1, 4, 13, 14
"""Status codes of gRPC."""
_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_BY_HTTP = {"401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}
"""Status codes of gRPC for those of HTTP, where what answers is no gRPC server."""
BY_RESET: dict[int, int] = {ErrorCode.REFUSED_STREAM: 14, ErrorCode.CANCEL: 1, ErrorCode.ENHANCE_YOUR_CALM: 8}
"""Status codes of gRPC for a stream that was reset."""
_OWN = frozenset({":status", "content-type", "grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding"})


class LostCallError(Exception):
    """A call that ended without a status of the server.

    Args:
        code: status code of gRPC that says best what happened.
        details: what happened.
    """

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details

    def as_grpc(self) -> grpc.aio.AioRpcError:
        """Returns what gRPC's client would raise."""
        return call_error(_STATUS[self.code], self.details)


@dataclass(slots=True)
class Exchange:
    """One request and its reply."""

    done: Any
    """Tells how it ended: a future of asyncio, or what is like one for a thread that waits."""
    window: int
    outgoing: bytes = b""
    """What waits for the server's window."""
    is_whole: bool = True
    """Whether nothing follows what is outgoing."""
    data: bytearray = field(default_factory=bytearray)
    """What has come of the reply."""
    take: Callable[[bytes], None] | None = None
    """Gets what comes of the replies of a stream, instead of ``data``."""
    received: int = 0
    """Bytes that came of a stream since the server was last told that it may send more."""
    fields: dict[str, str] = field(default_factory=dict)
    """Headers and trailers."""


def framed(raw: bytes) -> bytes:
    """Returns a message with its prefix, not compressed."""
    return b"\0" + len(raw).to_bytes(4, "big") + raw


@functools.lru_cache(maxsize=256)
def request_head(
    address: str,
    method: str,
    timeout_s: float | None,
    metadata: tuple[tuple[str, str], ...],
    *,
    scheme: bytes = PLAIN,
) -> bytes:
    """Returns the block of a request's headers.

    Args:
        address: of the server, ``HOST:PORT``.
        method: full name of the RPC.
        timeout_s: seconds until the deadline; None for none.
        metadata: pairs of name and value, such as the key.
        scheme: ``PLAIN`` or ``SECURE``.
    """
    fields = {
        ":path": method,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "vicinal-python",
    }
    if timeout_s is not None:
        fields["grpc-timeout"] = f"{min(99_999_999, max(1, round(1000 * timeout_s)))}m"
    # POST is entry 3 of the fixed table.
    head = b"\x83" + scheme + b"".join(literal(name, value) for name, value in fields.items())
    return head + b"".join(literal(name, value, secret=True) for name, value in metadata)


def reply_of(exchange: Exchange) -> bytes:
    """Returns the message of a reply.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    check_status(exchange.fields)
    if len(exchange.data) >= PREFIX_BYTES and not exchange.data[0]:
        return bytes(memoryview(exchange.data)[PREFIX_BYTES:])
    raise call_error(grpc.StatusCode.INTERNAL, "the reply is not one message that is not compressed")


def call_error(code: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, Any]] = ()) -> grpc.aio.AioRpcError:
    """Returns what gRPC's client raises for a call that failed."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)


def check_status(fields: Mapping[str, str]) -> None:
    """Reads how a call ended from its headers and trailers.

    Raises:
        grpc.aio.AioRpcError: it failed.
    """
    status = fields.get("grpc-status", "")
    if status == "0":
        return
    if not status.isdecimal():
        code = _BY_HTTP.get(fields.get(":status", ""), grpc.StatusCode.UNKNOWN.value[0])
        raise call_error(_STATUS[code], f"no gRPC server: HTTP status {fields.get(':status', 'unknown')}")
    trailing: list[tuple[str, Any]] = []
    for name, value in fields.items():
        if name.endswith("-bin"):
            trailing += ((name, one) for one in decode_binary(value))
        elif name not in _OWN:
            trailing.append((name, value))
    code_found = _STATUS.get(int(status), grpc.StatusCode.UNKNOWN)
    raise call_error(code_found, decode_message(fields.get("grpc-message", "")), trailing)
