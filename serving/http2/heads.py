"""Headers of calls: read with a memory for those that come again, and written as fixed bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hpack import HPACKError

from vicinal.http2.blocks import BlockReader
from vicinal.http2.fields import decode_binary, encode_binary, encode_message, literal
from vicinal.http2.frames import ConnectionFaultError, ErrorCode

_MAX_LIST_BYTES = 65_536
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OWN = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the headers of a call say."""

    path: str
    """Full name of the RPC, such as ``/vicinal.v1.SearchService/Search``."""
    timeout_s: float | None
    """How long the caller waits; None without end."""
    encoding: str
    """How its messages are compressed, such as ``gzip``; empty not at all."""
    metadata: Metadata
    """Everything else, without what belongs to HTTP and gRPC."""
    http_status: int
    """200 where this is a call of gRPC; else the status that says why not."""


class HeadReader:
    """Reads the headers of one connection, which has a table that its headers refer to."""

    def __init__(self) -> None:
        self._blocks = BlockReader(_head_of, most_bytes=_MAX_LIST_BYTES)

    def read(self, block: bytes) -> Head:
        """Returns what a block of headers says.

        Raises:
            ConnectionFaultError: it cannot be read, and so no block after it can.
        """
        try:
            return self._blocks.read(block)
        except (HPACKError, UnicodeDecodeError) as error:
            raise ConnectionFaultError(ErrorCode.COMPRESSION_ERROR, "the headers cannot be read") from error


def _head_of(fields: Iterable[Any]) -> Head:
    words: dict[str, str] = {}
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in fields:
        name, value = bytes(raw_name).decode("latin-1"), bytes(raw_value).decode("latin-1")
        if name.startswith(":") or name in _OWN:
            words[name] = value
        elif name.endswith("-bin"):
            metadata += ((name, part) for part in decode_binary(value))
        else:
            metadata.append((name, value))
    return Head(
        path=words.get(":path", ""),
        timeout_s=_timeout_s(words.get("grpc-timeout", "")),
        encoding=words.get("grpc-encoding", "").replace("identity", ""),
        metadata=tuple(metadata),
        http_status=_http_status(words),
    )


def _http_status(words: dict[str, str]) -> int:
    if words.get(":method") != "POST":
        return 405
    return 200 if words.get("content-type", "").startswith("application/grpc") else 415


def _timeout_s(text: str) -> float | None:
    # At most eight digits and a unit; whatever else comes is no deadline.
    unit = _UNITS_S.get(text[-1:])
    if unit is None or not text[:-1].isdecimal() or len(text) > 9:
        return None
    return int(text[:-1]) * unit


OPENING = b"\x88" + literal("content-type", "application/grpc")
"""Headers of every reply: status 200 (index 8 of the fixed table), and what follows is gRPC."""
CLOSING = literal("grpc-status", "0")
"""Trailers of a call that succeeded."""


def plain_answer(status: int) -> bytes:
    """Returns the headers of an answer to what is no call of gRPC."""
    return literal(":status", str(status))


def trailers(status: int, message: str, metadata: Iterable[tuple[str, str | bytes]] = ()) -> bytes:
    """Returns the trailers of a call.

    Args:
        status: status code of gRPC, 0 for OK.
        message: what happened, in words.
        metadata: further fields; the names of bytes end in ``-bin``.
    """
    fields = [literal("grpc-status", str(status))]
    if message:
        fields.append(literal("grpc-message", encode_message(message)))
    for name, value in metadata:
        fields.append(literal(name.lower(), value if isinstance(value, str) else encode_binary(value)))
    return b"".join(fields)
