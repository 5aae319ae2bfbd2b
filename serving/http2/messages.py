"""Messages inside the data of a stream: a flag, a length of four bytes, the content."""

import zlib
from typing import Final

from vicinal.errors import InvalidArgumentError, OverloadedError, UnimplementedError, VicinalError

PREFIX_BYTES: Final = 5
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
ENCODINGS = "identity,deflate,gzip"
"""How messages may be compressed, as the header ``grpc-accept-encoding`` says it."""


class MessageReader:
    """Cuts what comes into messages.

    Args:
        most_bytes: longest message, compressed or not.
        encoding: how compressed messages are compressed; empty: none are.
    """

    def __init__(self, most_bytes: int, encoding: str) -> None:
        self._most_bytes = most_bytes
        self._encoding = encoding
        self._buffer = bytearray()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes what came; returns the messages that are whole now.

        Raises:
            OverloadedError: a message is too long.
            UnimplementedError: it is compressed in a way that is unknown here.
            InvalidArgumentError: it is not compressed as it says.
        """
        buffer, messages = self._buffer, []
        buffer += data
        while len(buffer) >= PREFIX_BYTES:
            size = int.from_bytes(buffer[1:PREFIX_BYTES], "big")
            if size > self._most_bytes:
                raise _too_long(size, self._most_bytes)
            if len(buffer) < PREFIX_BYTES + size:
                break
            content = bytes(buffer[PREFIX_BYTES : PREFIX_BYTES + size])
            messages.append(self._unpacked(content) if buffer[0] else content)
            del buffer[: PREFIX_BYTES + size]
        return messages

    def _unpacked(self, content: bytes) -> bytes:
        bits = _WINDOW_BITS.get(self._encoding)
        if bits is None:
            raise UnimplementedError(f"messages compressed as {self._encoding or 'nothing'!r} cannot be read here")
        unpacker = zlib.decompressobj(bits)
        try:
            found = unpacker.decompress(content, self._most_bytes + 1)
        except zlib.error as error:
            raise InvalidArgumentError(f"the request is not compressed as {self._encoding}") from error
        if len(found) > self._most_bytes:
            raise _too_long(len(found), self._most_bytes)
        if not unpacker.eof:
            raise InvalidArgumentError(f"the request is not whole as {self._encoding}")
        return found


def _too_long(size: int, most_bytes: int) -> VicinalError:
    # The words of gRPC, by which clients tell this from a busy server.
    return OverloadedError(f"Received message larger than max ({size} vs. {most_bytes})")


def framed(message: bytes) -> bytes:
    """Returns a message as it travels, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message
