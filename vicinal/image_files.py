"""Image files of a local folder: stamped without reading, and read without ever blocking."""

import os
import stat
from urllib.parse import quote, unquote_to_bytes

from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, Quarantined
from vicinal.errors import InvalidImageError
from vicinal.item_names import label_of, printable


def file_item(root: str, path: str) -> CorpusItem | Quarantined:
    """Returns the item of one file.

    Args:
        root: the folder of the corpus.
        path: path in it, as the system has it.

    Returns:
        The item, or why there is none: gone, a pipe or device, too large.
    """
    shown = printable(path)
    try:
        found = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - millions of them
    except (OSError, ValueError) as error:
        return Quarantined(item_id=shown, reason="UNREADABLE", message=why(error))
    if not stat.S_ISREG(found.st_mode):
        return Quarantined(item_id=shown, reason="NOT_A_FILE", message="it is a folder, pipe, socket or device")
    if found.st_size > MAX_ITEM_BYTES:
        return Quarantined(item_id=shown, reason="TOO_LARGE", message=too_large(found.st_size))
    return CorpusItem(
        item_id=shown,
        path=shown,
        label=label_of(shown),
        # The change time cannot be set back, unlike the time of modification.
        stamp=f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}",
        locator="" if shown == path else quote(os.fsencode(path)),
    )


def read_file(root: str, item: CorpusItem) -> bytes:
    """Returns the bytes of a file, which must be a regular one when it is opened.

    Raises:
        InvalidImageError: it is gone, unreadable, no regular file or too large.
    """
    path = os.fsdecode(unquote_to_bytes(item.locator)) if item.locator else item.path
    try:
        # O_NONBLOCK: a pipe put in the place of the file must not block.
        descriptor = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NONBLOCK)  # noqa: PTH118
        with open(descriptor, "rb", buffering=0) as stream:  # noqa: PTH123
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidImageError(f"{item.item_id!r} is no longer a regular file")
            content = stream.read(min(found.st_size, MAX_ITEM_BYTES) + 1)
    except OSError as error:
        raise InvalidImageError(f"cannot read {item.item_id!r}: {why(error)}") from error
    if len(content) > MAX_ITEM_BYTES:
        raise InvalidImageError(f"cannot read {item.item_id!r}: {too_large(found.st_size)}")
    return content


def too_large(size: int) -> str:
    """Returns the sentence about an image of too many bytes."""
    return f"it has {size} bytes, at most {MAX_ITEM_BYTES} are read"


def why(error: OSError | ValueError) -> str:
    """Returns the system's own words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
