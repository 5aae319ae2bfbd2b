"""Sheets and grids: every pixel where a person expects it."""

import numpy as np
import pytest
from PIL import Image

from vicinal.errors import StorageError
from vicinal.modalities.image.preview import SheetRow, Tile, grid, sheet


def solid(color: tuple[int, int, int], *, shape: tuple[int, int] = (28, 28)) -> np.ndarray:
    return np.full((*shape, 3), color, np.uint8)


def test_sheet_shows_query_neighbors_and_frames(tmp_path):
    red, blue = solid((200, 0, 0)), solid((0, 0, 200))
    rows = [
        SheetRow(
            query=Tile(image=red, caption="query"),
            neighbors=[Tile(image=np.moveaxis(blue, -1, 0), good=True), Tile(image=blue, good=False)],
        ),
        SheetRow(query=Tile(image=np.zeros((28, 28), np.uint8))),
    ]
    sheet(rows, tmp_path / "sheet.png", title="Neighbors", tile_size=40)
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[26 + 20, 6 + 20].tolist() == [200, 0, 0]
    assert pixels[26 + 20, 18 + 46 + 20].tolist() == [0, 0, 200]
    assert pixels[26 - 2, 18 + 46 + 20].tolist() == [30, 140, 80]
    assert pixels[26 - 2, 18 + 92 + 20].tolist() == [205, 60, 50]
    assert pixels[26 + 60 + 20, 6 + 20].tolist() == [0, 0, 0]


def test_tall_images_are_fitted_not_squashed(tmp_path):
    grid([solid((0, 150, 0), shape=(80, 20))], tmp_path / "grid.png", columns=1, tile_size=40)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    green = (pixels[..., 1] > 120) & (pixels[..., 0] < 60)
    assert green.sum() == pytest.approx(10 * 40, abs=45)


def test_grid_lays_out_rows_and_long_captions_are_cut(tmp_path):
    grid([solid((9, 9, 9))] * 5, tmp_path / "grid.png", columns=3, tile_size=20, title="views")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (6 + 3 * 26, 26 + 2 * 26 + 6)
    sheet([SheetRow(query=Tile(image=solid((1, 1, 1)), caption="x" * 500))], tmp_path / "s.png", tile_size=20)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        grid([solid((9, 9, 9))], tmp_path / "nowhere" / "grid.png", columns=1)
