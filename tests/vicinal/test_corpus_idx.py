"""IDX files as a corpus."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.data import fashion_mnist, fashion_mnist_arrays
from vicinal.corpus import open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (7, 5, 4), np.uint8), "t10k": RNG.integers(0, 256, (3, 5, 4), np.uint8)}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(params=["", ".gz"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for split, images in IMAGES.items():
        labels = np.arange(len(images), dtype=np.uint8) % 10
        for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = gzip.compress(idx(array)) if request.param else idx(array)
            (tmp_path / f"{split}-{stem}-ubyte{request.param}").write_bytes(content)
    return tmp_path


def test_images_come_as_pgm_with_their_labels(folder: Path) -> None:
    with open_corpus(str(folder)) as corpus:
        items = list(corpus)
        assert [item.item_id for item in items] == [
            *(f"train/{n:05d}" for n in range(7)),
            *(f"test/{n:05d}" for n in range(3)),
        ]
        assert [item.label for item in items[:7]] == [str(n) for n in range(7)]
        image = np.asarray(Image.open(io.BytesIO(corpus.read(items[8]))))
    assert np.array_equal(image, IMAGES["t10k"][1])


def test_a_split_is_chosen_and_a_single_file_is_a_corpus(folder: Path) -> None:
    with open_corpus(f"idx:{folder}?split=test") as corpus:
        assert len(list(corpus)) == 3
    with open_corpus(f"{folder}?split=train&under=train&limit=2") as corpus:
        assert len(list(corpus)) == 2
    (file,) = folder.glob("train-images*")
    with open_corpus(str(file)) as corpus:
        assert [item.item_id for item in corpus][:1] == ["train/00000"]
        assert next(iter(corpus)).label == "0"
    with pytest.raises(InvalidCorpusError, match="wanted train, test or all"):
        open_corpus(f"idx:{folder}?split=dev")


def test_an_item_of_another_file_says_so(folder: Path) -> None:
    with open_corpus(str(folder)) as both:
        item = next(iter(both))
    corpus = open_corpus(f"{folder}?split=test")
    with pytest.raises(InvalidImageError, match="no longer"):
        corpus.read(item)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (idx(IMAGES["train"])[:-1], "cut short"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 1 << 20, 1 << 20, 1), "claims"),
        (struct.pack(">BBBB3I", 0, 0, 13, 3, 1, 1, 1) + bytes(4), "not an IDX file"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_file_is_refused_and_named(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InvalidCorpusError, match=message):
        open_corpus(str(tmp_path))


def test_a_torn_gzip_and_wrong_label_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(IMAGES["train"]))[:-20])
    with pytest.raises(InvalidCorpusError, match="damaged or cut short"):
        open_corpus(str(tmp_path))
    path.write_bytes(gzip.compress(idx(IMAGES["train"])))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(InvalidCorpusError, match="3 labels for 7 images"):
        open_corpus(str(tmp_path))


def test_an_idx_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES["t10k"]))
    with pytest.raises(InvalidCorpusError, match="no IDX images of split train"):
        open_corpus(f"{tmp_path}?split=train")


def test_fashion_mnist_is_read_as_it_is() -> None:
    images, labels = fashion_mnist_arrays("t10k", 3)
    with open_corpus(f"{fashion_mnist()}?split=test&limit=3") as corpus:
        items = list(corpus)
        assert [int(item.label or -1) for item in items] == labels.tolist()
        assert corpus.read(items[2]).endswith(images[2].tobytes())
