"""Blocks of headers (RFC 7541): one that comes again, and leaves the table alone, is looked up instead of decoded."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from hpack import Decoder

T = TypeVar("T")
_MAX_KNOWN = 64


class BlockReader(Generic[T]):
    """Reads the blocks of one connection, in their order.

    Args:
        make: from the fields of a block, pairs of raw name and value, to what they say.
        most_bytes: of the fields of a block.
    """

    def __init__(self, make: Callable[[Iterable[Any]], T], *, most_bytes: int) -> None:
        self._make = make
        self._decoder = Decoder(max_header_list_size=most_bytes)
        self._known: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """Returns what a block says.

        Raises:
            HPACKError, UnicodeDecodeError: it cannot be read, and so no block after it can.
        """
        found = self._known.get(block)
        if found is not None:
            return found
        entries = self._decoder.header_table.dynamic_entries
        before = (len(entries), entries[0] if entries else None)
        fields: Any = self._decoder.decode(block, raw=True)
        entries = self._decoder.header_table.dynamic_entries
        after = (len(entries), entries[0] if entries else None)
        found = self._make(fields)
        # A block that changes the table means something else the next time, and so may those before it.
        if before[0] != after[0] or before[1] is not after[1] or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        else:
            self._known[block] = found
        return found
