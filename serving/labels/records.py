"""What the label log keeps: labels, batches, sets, conflicts."""

import enum
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from vicinal.errors import InvalidLabelError

PREFIX = "labelSets/"
MAX_AUTHOR_BYTES = 256
MAX_ITEM_ID_BYTES = 1024
_NAME = re.compile(r"[a-z0-9-]{1,63}")


class Source(enum.IntEnum):
    """Where a label came from; the numbers are those of the API."""

    HUMAN = 1
    PROPAGATED = 2
    IMPORTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A label to be put on an item."""

    item_id: str
    """The item, 1 to 1,024 bytes; it need not be in any snapshot."""
    label: str | None
    """The class; None for none of the classes."""
    source: Source = Source.HUMAN
    """Where it comes from."""
    author: str = ""
    """Who says so."""
    confidence: float = 1.0
    """In [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """A label that holds."""

    item_id: str
    """The item."""
    label: str | None
    """The class; None for none of the classes."""
    source: Source
    """Where it came from."""
    author: str
    """Who said so."""
    confidence: float
    """In [0, 1]."""
    created_at: datetime
    """When it was put, UTC."""
    batch: int
    """The batch that put it."""
    snapshot: str
    """The snapshot that was active then; empty when none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One acknowledged change of a label set."""

    number: int
    """From 1 in each set; also the version that it made."""
    verb: str
    """``put``, ``remove``, ``rename``, ``accept``, ``reject``, ``import``, ``undo``, ``redo`` or ``delete``."""
    author: str
    """Who did it."""
    created_at: datetime
    """When, UTC."""
    change_count: int
    """Labels changed."""
    target: int = 0
    """The batch that this undoes or redoes; 0 otherwise."""
    undone: bool = False
    """Whether it is undone now."""
    skipped_count: int = 0
    """Of an undo or redo just made: labels left alone because they were changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    """A label set and what is in it."""

    name: str
    """Resource name, such as ``labelSets/clothes``."""
    multi_label: bool
    """Whether an item may have several labels."""
    version: int
    """Number of its newest batch, 0 when it has none."""
    classes: dict[str, int]
    """Items with each class, by class."""
    negative_count: int
    """Items marked as none of the classes."""
    created_at: datetime
    """When it was made, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An item on which two people disagree."""

    item_id: str
    """The item."""
    labels: tuple[LabelRow, ...]
    """What they said, the newest first."""


def plain_name(name: str) -> str:
    """Returns the id of a label set from its resource name or id.

    Raises:
        InvalidLabelError: it is not of the form [a-z0-9-]{1,63}.
    """
    plain = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(plain):
        raise InvalidLabelError(
            f"{name[:80]!r} is not a label set name; use 1 to 63 of a-z, 0-9 and -, such as 'labelSets/clothes'",
            field="name",
        )
    return plain


def check_author(author: str) -> str:
    """Returns an author's name.

    Raises:
        InvalidLabelError: it is over 256 bytes or holds control characters.
    """
    if len(author.encode("utf-8", errors="surrogatepass")) > MAX_AUTHOR_BYTES or not author.isprintable():
        raise InvalidLabelError(f"an author has at most {MAX_AUTHOR_BYTES} printable bytes: {author[:40]!r}")
    return author


def check_item_id(item_id: str) -> str:
    """Returns an item id.

    Raises:
        InvalidLabelError: it is empty or over 1,024 bytes.
    """
    size = len(item_id.encode("utf-8", errors="surrogatepass"))
    if not 1 <= size <= MAX_ITEM_ID_BYTES:
        raise InvalidLabelError(f"an item id has 1 to {MAX_ITEM_ID_BYTES:,} bytes, got {size:,}", field="item_id")
    return item_id


def moment(microseconds: int) -> datetime:
    """Returns the instant of microseconds since 1970, UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, tz=UTC)
