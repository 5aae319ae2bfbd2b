"""Where the real images of the tests are; a test that needs one skips with a reason where it is missing."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def shared(name: str) -> Path:
    """Returns a file of the shared test data, such as ``cifar10-jpeg.zip``, or skips."""
    path = Path(os.environ.get("VICINAL_TEST_DATA", str(ROOT.parent / "shared" / "data"))) / name
    if not path.is_file():
        pytest.skip(f"test data {name} is not at {path.parent}; set VICINAL_TEST_DATA")
    return path


def fashion_mnist() -> Path:
    """Returns the directory of the Fashion-MNIST IDX files, or skips."""
    if not (FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"Fashion-MNIST is not at {FASHION_MNIST}; apt-get install dataset-fashion-mnist")
    return FASHION_MNIST


def fashion_mnist_arrays(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first images (N, 28, 28) uint8 and labels (N,) of a split, ``train`` or ``t10k``."""
    folder = fashion_mnist()
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as stream:
        images = np.frombuffer(stream.read(16 + count * 784), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as stream:
        labels = np.frombuffer(stream.read(8 + count), np.uint8, offset=8)
    return images, labels
