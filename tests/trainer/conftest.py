"""Small labelled images of four kinds, as a folder and as a trained run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

KINDS = ("disc", "frame", "stripes", "cross")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seeds PyTorch, so that a statistical test is the same test in any order."""
    torch.manual_seed(0)


def drawing(kind: str, random: np.random.Generator, side: int = 16) -> np.ndarray:
    """Returns one noisy gray drawing (side, side), uint8."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2 + random.normal(0, 1.0, (2, 1, 1))
    radius = side * random.uniform(0.25, 0.4)
    ink = {
        "disc": np.hypot(rows, columns) < radius,
        "frame": (np.maximum(abs(rows), abs(columns)) < radius) & (np.maximum(abs(rows), abs(columns)) > radius - 2),
        "stripes": (rows + side).astype(int) % 4 < 2,
        "cross": (abs(rows) < 1.5) | (abs(columns) < 1.5),
    }[kind]
    shade = random.uniform(120, 230) * ink + random.normal(20, 12, ink.shape)
    return np.asarray(shade.clip(0, 255), dtype=np.uint8)


def write_drawings(folder: Path, *, per_kind: int, seed: int = 0) -> Path:
    """Writes KIND/NUMBER.png files and returns the folder."""
    random = np.random.default_rng(seed)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for number in range(per_kind):
            Image.fromarray(drawing(kind, random)).save(folder / kind / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def drawings(tmp_path_factory):
    """A folder of 4 x 60 drawings."""
    return write_drawings(tmp_path_factory.mktemp("drawings") / "train", per_kind=60)


@pytest.fixture(scope="session")
def test_drawings(tmp_path_factory):
    """A folder of 4 x 15 other drawings."""
    return write_drawings(tmp_path_factory.mktemp("drawings") / "test", per_kind=15, seed=1)
