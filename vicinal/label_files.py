"""Labels for people and other tools: sheets of items as PNG, and folders by class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vicinal.artifact import storage_guard
from vicinal.errors import FailedPreconditionError, InvalidArgumentError, InvalidImageError
from vicinal.modalities.image.decode import decode
from vicinal.modalities.image.preview import SheetRow, Tile, sheet
from vicinal.sheets import read_images

_MAX_ROWS = 200
_UNSAFE = re.compile(r"[^\w .,+()-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An item to be drawn, and others beside it."""

    item_id: str
    """The item; ignored when ``content`` is given."""
    caption: str
    """Short text below it."""
    content: bytes = b""
    """An encoded image, for what is no item."""
    beside: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """Ids and captions of the items beside it, such as what speaks for a proposal."""


def draw(workspace: Path, snapshot: str, rows: Sequence[Shown], path: Path, *, title: str = "") -> int:
    """Writes a PNG of items, each with others beside it.

    Args:
        workspace: where the snapshot is.
        snapshot: whose corpora hold the images.
        rows: what to draw; the first 200 are.
        path: file to write.
        title: text above.

    Returns:
        The number of rows drawn; items whose image is gone are left out.

    Raises:
        FailedPreconditionError: no image could be read.
    """
    rows = rows[:_MAX_ROWS]
    wanted = {row.item_id for row in rows if not row.content} | {item for row in rows for item, _ in row.beside}
    contents = read_images(workspace, snapshot, wanted - {""}) if wanted - {""} else {}
    drawn = []
    for row in rows:
        query = _tile(row.content or contents.get(row.item_id, b""), row.caption)
        if query is not None:
            beside = (_tile(contents.get(item, b""), caption) for item, caption in row.beside)
            drawn.append(SheetRow(query=query, neighbors=[tile for tile in beside if tile is not None]))
    if not drawn:
        raise FailedPreconditionError(
            f"none of the images is in the corpora of {snapshot}; they may have moved since it was built"
        )
    sheet(drawn, path, title=title)
    return len(drawn)


def export_folders(workspace: Path, snapshot: str, labels: Mapping[str, Sequence[str]], out: Path) -> int:
    """Copies images into one folder for each class.

    Args:
        workspace: where the snapshot is.
        snapshot: whose corpora hold the images.
        labels: classes of each item by item id.
        out: an empty or new directory.

    Returns:
        The number of files written.

    Raises:
        InvalidArgumentError: the directory holds something.
        FailedPreconditionError: no image could be read.
        StorageError: the disk is full or failed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidArgumentError(f"{out} is not empty; name a new directory", field="out")
    contents = read_images(workspace, snapshot, set(labels))
    if not contents:
        raise FailedPreconditionError(f"none of the labelled images is in the corpora of {snapshot}")
    count = 0
    with storage_guard(out):
        for item_id, content in sorted(contents.items()):
            for label in labels[item_id]:
                folder = out / _safe(label)
                folder.mkdir(parents=True, exist_ok=True)
                _free_name(folder, Path(_safe(item_id))).write_bytes(content)
                count += 1
    return count


def _tile(content: bytes, caption: str) -> Tile | None:
    if not content:
        return None
    try:
        return Tile(image=decode(content), caption=caption)
    except InvalidImageError:
        return Tile(image=np.zeros((3, 8, 8), np.uint8), caption=f"{caption} (unreadable)")


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name).lstrip(". ")[:120] or "_"


def _free_name(folder: Path, name: Path) -> Path:
    path, number = folder / name, 1
    while path.exists():
        path, number = folder / f"{name.stem}~{number}{name.suffix}", number + 1
    return path
