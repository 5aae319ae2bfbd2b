"""Pictures of images for people: sheets of queries with their neighbors, and plain grids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vicinal.artifact import storage_guard
from vicinal.types import U8Array

_GAP = 6
_CAPTION_HEIGHT = 14
_INK, _PAPER, _FAINT = (32, 32, 36), (255, 255, 255), (120, 120, 128)
_GOOD, _BAD = (30, 140, 80), (205, 60, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One image of a sheet."""

    image: U8Array
    """Pixels, uint8, (C, H, W) or (H, W, C) or (H, W), with C 1 or 3."""
    caption: str = ""
    """Short text below the image; cut to fit."""
    good: bool | None = None
    """Framed green when true, red when false, not at all when unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """A query and what was found for it."""

    query: Tile
    neighbors: Sequence[Tile] = field(default_factory=tuple)


def sheet(rows: Sequence[SheetRow], path: Path, *, title: str = "", tile_size: int = 72) -> None:
    """Writes a PNG with one query a row, a gap, and its neighbors, best first.

    Args:
        rows: at least one row.
        path: file to write.
        title: text above the rows.
        tile_size: side of a tile in pixels, at least 16; images are scaled to fit.

    Raises:
        StorageError: the file cannot be written.
    """
    widest = max(len(row.neighbors) for row in rows)
    step_x, step_y = tile_size + _GAP, tile_size + _CAPTION_HEIGHT + _GAP
    top = 26 if title else _GAP
    width = max(2 * _GAP + step_x + 2 * _GAP + widest * step_x, 8 * len(title))
    canvas = Image.new("RGB", (width, top + len(rows) * step_y + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _GAP), title, fill=_INK, font=ImageFont.load_default(13))
    for number, row in enumerate(rows):
        y = top + number * step_y
        _paste(canvas, row.query, (_GAP, y), tile_size)
        line_x = _GAP + step_x + _GAP // 2
        draw.line([(line_x, y), (line_x, y + tile_size)], fill=_FAINT, width=1)
        for column, tile in enumerate(row.neighbors):
            _paste(canvas, tile, (3 * _GAP + (column + 1) * step_x, y), tile_size)
    with storage_guard(path):
        canvas.save(path, format="PNG")


def grid(images: Sequence[U8Array], path: Path, *, columns: int, title: str = "", tile_size: int = 72) -> None:
    """Writes a PNG with images row by row.

    Args:
        images: at least one image, as in Tile.
        path: file to write.
        columns: images a row, at least 1.
        title: text above.
        tile_size: side of a tile in pixels.

    Raises:
        StorageError: the file cannot be written.
    """
    top = 26 if title else _GAP
    step = tile_size + _GAP
    row_count = -(-len(images) // columns)
    canvas = Image.new("RGB", (max(columns * step + _GAP, 8 * len(title)), top + row_count * step + _GAP), _PAPER)
    ImageDraw.Draw(canvas).text((_GAP, _GAP), title, fill=_INK, font=ImageFont.load_default(13))
    for number, image in enumerate(images):
        place = (_GAP + number % columns * step, top + number // columns * step)
        canvas.paste(_scaled(image, tile_size), place)
    with storage_guard(path):
        canvas.save(path, format="PNG")


def _scaled(image: U8Array, tile_size: int) -> Image.Image:
    pixels = np.moveaxis(image, 0, -1) if image.ndim == 3 and image.shape[0] in {1, 3} else image
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    scale = tile_size / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    smooth = Image.Resampling.BICUBIC if scale < 1 or tile_size < 2 * max(picture.size) else Image.Resampling.NEAREST
    tile = Image.new("RGB", (tile_size, tile_size), (240, 240, 242))
    tile.paste(picture.resize(size, smooth), ((tile_size - size[0]) // 2, (tile_size - size[1]) // 2))
    return tile


def _paste(canvas: Image.Image, tile: Tile, place: tuple[int, int], tile_size: int) -> None:
    canvas.paste(_scaled(tile.image, tile_size), place)
    draw = ImageDraw.Draw(canvas)
    x, y = place
    if tile.good is not None:
        frame = (x - 2, y - 2, x + tile_size + 1, y + tile_size + 1)
        draw.rectangle(frame, outline=_GOOD if tile.good else _BAD, width=2)
    font = ImageFont.load_default(10)
    caption = tile.caption
    while caption and draw.textlength(caption, font=font) > tile_size:
        caption = caption[:-1]
    draw.text((x, y + tile_size + 2), caption, fill=_FAINT, font=font)
