"""IDX files, the format of MNIST and Fashion-MNIST: a folder of them, or one file of images.

Items are ``train/00000`` and so on; each is handed out as a binary PGM file. Options: ``split``
(train, test or all) for a folder.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicinal.corpus import CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.types import U8Array

_SPLITS = {"train": "train", "test": "t10k"}
_MAX_UNPACKED_BYTES = 8 << 30
_U8 = 8
_ENDINGS = (".gz", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    name: str
    images_NHW: U8Array
    labels_N: U8Array | None
    stamp: str


OPTIONS: tuple[str, ...] = ("split",)


def recognises(location: str) -> bool:
    """Says whether the location is an IDX file, or a folder that has MNIST's files."""
    path = Path(location)
    if path.is_dir():
        return any(_find(path / f"{stem}-images-idx3-ubyte") for stem in _SPLITS.values())
    return path.name.endswith(("-idx3-ubyte", "-idx3-ubyte.gz"))


class Reader:
    """IDX files."""

    sequential = False
    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        place = Path(spec.location)
        wanted = spec.options.get("split", "all")
        if wanted not in {*_SPLITS, "all"}:
            raise InvalidCorpusError(f"corpus {spec.text!r}: split is {wanted!r}, wanted train, test or all")
        if place.is_file():
            files = [(_stem(place), place)]
        else:
            stems = [(name, stem) for name, stem in _SPLITS.items() if wanted in {name, "all"}]
            found = [(name, _find(place / f"{stem}-images-idx3-ubyte")) for name, stem in stems]
            files = [(name, path) for name, path in found if path is not None]
        if not files:
            raise InvalidCorpusError(
                f"{spec.location} has no IDX images of split {wanted}; wanted train-images-idx3-ubyte[.gz] or "
                "t10k-images-idx3-ubyte[.gz] in it"
            )
        self._splits = {name: _load(name, path) for name, path in files}

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the images of each split, by number."""
        for split in self._splits.values():
            if not f"{split.name}/".startswith(under):
                continue
            for number in range(len(split.images_NHW)):
                path = f"{split.name}/{number:05d}"
                label = None if split.labels_N is None else str(split.labels_N[number])
                yield CorpusItem(item_id=path, path=path, label=label, stamp=split.stamp, locator=str(number))

    def read(self, item: CorpusItem) -> bytes:
        """Returns the image as a binary PGM file."""
        split = self._splits.get(item.path.partition("/")[0])
        number = int(item.locator)
        if split is None or number >= len(split.images_NHW):
            raise InvalidImageError(f"{item.item_id!r} is no longer in its IDX file")
        image_HW = split.images_NHW[number]
        height, width = image_HW.shape
        return b"".join((f"P5\n{width} {height}\n255\n".encode(), image_HW.tobytes()))

    def close(self) -> None:
        """Holds nothing open."""


def _stem(path: Path) -> str:
    stem = path.name.removesuffix(".gz").removesuffix("-idx3-ubyte").removesuffix("-images")
    return {stem: name for name, stem in _SPLITS.items()}.get(stem, stem)


def _find(base: Path) -> Path | None:
    for path in (base.with_name(base.name + ending) for ending in _ENDINGS):
        if path.is_file():
            return path
    return None


def _load(name: str, path: Path) -> _Split:
    images_NHW = _read_idx(path, dimensions=3)
    labels_path = _find(path.with_name(path.name.removesuffix(".gz").replace("images-idx3", "labels-idx1")))
    labels_N = _read_idx(labels_path, dimensions=1) if labels_path is not None and labels_path != path else None
    if labels_N is not None and len(labels_N) != len(images_NHW):
        raise InvalidCorpusError(f"{labels_path} has {len(labels_N)} labels for {len(images_NHW)} images in {path}")
    found = path.stat()
    return _Split(name=name, images_NHW=images_NHW, labels_N=labels_N, stamp=f"{found.st_size}-{found.st_mtime_ns}")


def _read_idx(path: Path, *, dimensions: int) -> U8Array:
    """Returns the array of an IDX file, memory-mapped where the file is not compressed."""
    packed = path.suffix == ".gz"
    header_bytes = 4 + 4 * dimensions
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            header = stream.read(header_bytes)
            if len(header) < header_bytes or header[:4] != bytes((0, 0, _U8, dimensions)):
                raise InvalidCorpusError(f"{path} is not an IDX file of bytes with {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            if size > _MAX_UNPACKED_BYTES:
                raise InvalidCorpusError(f"{path} claims {size} bytes, at most {_MAX_UNPACKED_BYTES} are read")
            if packed:
                flat = np.frombuffer(stream.read(size), np.uint8)
            else:
                flat = np.memmap(path, np.uint8, mode="r", offset=header_bytes) if size else np.zeros(0, np.uint8)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InvalidCorpusError(f"{path} is damaged or cut short: {error}") from error
    if flat.size < size:
        raise InvalidCorpusError(f"{path} is cut short: {flat.size} bytes of {size}; get it again")
    return flat[:size].reshape(shape)
