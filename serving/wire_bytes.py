"""Pieces of replies as bytes: numbers, and the ids of items straight from the memory-mapped table."""

from binascii import b2a_base64

from index.live_items import LiveItems
from vicinal.item_table import BATCH_ROWS, ItemTable
from vicinal.types import I64Array

_MAX_ID_BYTES = 1024


def varint(number: int) -> bytes:
    """Returns an unsigned number as protobuf writes it."""
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


_VARINTS = [varint(number) for number in range(1 << 14)]
_ID_PREFIXES = [b"\n" + _VARINTS[length] for length in range(_MAX_ID_BYTES + 1)]


def length_bytes(number: int) -> bytes:
    """Returns ``varint(number)``; small numbers are at hand."""
    return _VARINTS[number] if number < len(_VARINTS) else varint(number)


class IdBytes:
    """The ids of a snapshot as bytes, straight from the memory-mapped item table, and of what was added to it.

    Args:
        items: of a snapshot, or of one with changes.
    """

    def __init__(self, items: ItemTable | LiveItems) -> None:
        table = items.table if isinstance(items, LiveItems) else items
        self._table_count = len(table)
        self._added = items.added if isinstance(items, LiveItems) else ()
        self._chunks: list[tuple[memoryview[int], memoryview]] = []
        for chunk in table.column("item_id").chunks:
            _, offsets, data = chunk.buffers()
            assert offsets is not None
            assert not chunk.offset, "the table is read as it was written"
            content = memoryview(data) if data is not None else memoryview(b"")
            self._chunks.append((memoryview(offsets).cast("B").cast("i"), content))

    def pieces(self, rows_M: I64Array) -> list[bytes | memoryview]:
        """Returns for each row the head of a field ``item_ids`` and its content, one after the other.

        Args:
            rows_M: rows, int64, all valid.
        """
        pieces: list[bytes | memoryview] = []
        append, chunks, prefixes = pieces.append, self._chunks, _ID_PREFIXES
        for row in rows_M.tolist():
            if row >= self._table_count:
                content = self._added[row - self._table_count].item_id.encode()
                pieces += (prefixes[len(content)], content)
                continue
            offsets, data = chunks[row // BATCH_ROWS]
            place = row % BATCH_ROWS
            start, end = offsets[place], offsets[place + 1]
            append(prefixes[end - start])
            append(data[start:end])
        return pieces


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def url_safe_base64(content: bytes) -> bytes:
    """Returns bytes in base64 for addresses, with its padding."""
    return b2a_base64(content, newline=False).translate(_URL_SAFE)
