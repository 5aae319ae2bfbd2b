"""Fields of headers and trailers: written so that no table is needed, and what gRPC puts into their values."""

import base64
import binascii
from urllib.parse import unquote


def literal(name: str, value: str, *, secret: bool = False) -> bytes:
    """Returns a field as it stands, which leaves the other end's table alone (RFC 7541, 6.2.2).

    Args:
        name: lower case.
        value: of characters that Latin-1 has.
        secret: nobody on the way may put it into a table either (6.2.3).
    """
    raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
    head = b"\x10" if secret else b"\0"
    return head + _length(len(raw_name)) + raw_name + _length(len(raw_value)) + raw_value


def _length(size: int) -> bytes:
    if size < 127:
        return bytes((size,))
    pieces, rest = bytearray((127,)), size - 127
    while rest > 127:
        pieces.append(rest & 127 | 128)
        rest >>= 7
    pieces.append(rest)
    return bytes(pieces)


def encode_message(message: str) -> str:
    """Returns a status message as the field ``grpc-message`` has it."""
    return "".join(chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}" for byte in message.encode())


def decode_message(value: str) -> str:
    """Returns the status message in a field ``grpc-message``."""
    return unquote(value, errors="replace")


def encode_binary(value: bytes) -> str:
    """Returns bytes as the fields have them whose names end in ``-bin``."""
    return base64.b64encode(value).decode().rstrip("=")


def decode_binary(value: str) -> list[bytes]:
    """Returns the bytes in a field whose name ends in ``-bin``; what is none is left out."""
    found = []
    for part in value.split(","):
        try:
            found.append(base64.b64decode(part + "=" * (-len(part) % 4)))
        except (binascii.Error, ValueError):
            continue
    return found
