"""The image cache: a corpus decoded once into one memory-mapped uint8 array.

    DIRECTORY/images.npy   x_NCHW, uint8
              cache.json   what it was made from, counts, labels, quarantine

It is complete when ``cache.json`` is there. Memory is bounded by the chunk that is being decoded.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.artifact import canonical_digest, storage_guard
from vicinal.config import to_mapping
from vicinal.corpus import Corpus, CorpusItem, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.modalities.image import Preprocessing, decode
from vicinal.types import I64Array, U8Array

Progress = Callable[[str, int, int], None]
"""Called with a word, how many are done, and of how many."""

_CHUNK = 1024
_SAMPLE = 64
_SMALLEST, _LARGEST = 16, 96


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCache:
    """Decoded images of one size."""

    x_NCHW: U8Array
    """Memory-mapped, uint8."""
    labels_N: I64Array
    """Class numbers where the corpus names classes, else -1; for monitors only, never for training."""
    classes: tuple[str, ...]
    """Names of the classes."""
    quarantine: tuple[tuple[str, str], ...]
    """Item id and reason of every image that could not be decoded."""
    digest: str
    """64 hexadecimal digits: what was asked for and which items were there."""


def open_or_build(directory: Path, spec: str, preprocessing: Preprocessing, *, progress: Progress) -> ImageCache:
    """Opens the cache of a corpus, and makes it first if it is not there or the corpus has changed.

    Args:
        directory: place of the caches; one directory a cache is made in it.
        spec: the corpus.
        preprocessing: size and resize rule.
        progress: called as images are decoded.

    Raises:
        InvalidCorpusError: it cannot be read, or none of its images can be decoded.
        StorageError: the disk is full or failed.
    """
    with open_corpus(spec) as corpus:
        items = list(corpus)
        shape = to_mapping(preprocessing)
        stamps = [(item.item_id, item.stamp, item.label) for item in items]
        digest = canonical_digest({"preprocessing": shape, "items": stamps})
        place = directory / digest[:32]
        if not (place / "cache.json").is_file():
            with storage_guard(place):
                _build(place, corpus, items, preprocessing, digest=digest, progress=progress)
    facts = json.loads((place / "cache.json").read_text(encoding="utf-8"))
    return ImageCache(
        x_NCHW=np.load(place / "images.npy", mmap_mode="r"),
        labels_N=np.asarray(facts["labels"], dtype=np.int64),
        classes=tuple(facts["classes"]),
        quarantine=tuple((item_id, reason) for item_id, reason in facts["quarantine"]),
        digest=digest,
    )


def sample_shape(spec: str, *, largest: int = _LARGEST) -> tuple[int, int]:
    """Looks at a few images of a corpus.

    Args:
        spec: the corpus.
        largest: side that is returned at most, in pixels.

    Returns:
        Channels that suit them (1 when all are gray), and a side in pixels: the median shorter side,
        a multiple of 4 between 16 and ``largest``.

    Raises:
        InvalidCorpusError: the corpus cannot be read, or none of the images that were tried can be decoded.
    """
    sides: list[int] = []
    gray = True
    reason = ""
    with open_corpus(spec) as corpus:
        items = list(corpus)
        for item in items[:: max(1, len(items) // _SAMPLE)]:
            try:
                x_HWC = decode(corpus.read(item))
            except InvalidImageError as error:
                reason = f"{item.item_id}: {error.message}"
                continue
            sides.append(min(x_HWC.shape[:2]))
            gray = gray and bool((x_HWC[..., :1] == x_HWC).all())
    if not sides:
        raise InvalidCorpusError(f"none of the images that were tried in {spec!r} can be decoded; {reason}")
    side = int(np.median(sides)) // 4 * 4
    return (1 if gray else 3), min(max(side, _SMALLEST), largest)


def _build(
    place: Path,
    corpus: Corpus,
    items: Sequence[CorpusItem],
    preprocessing: Preprocessing,
    *,
    digest: str,
    progress: Progress,
) -> None:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shape = (len(items), preprocessing.channels, preprocessing.height, preprocessing.width)
    x_NCHW: Any = np.lib.format.open_memmap(place / "all.npy", mode="w+", dtype=np.uint8, shape=shape)
    kept: list[CorpusItem] = []
    quarantine: list[tuple[str, str]] = []

    def read(item: CorpusItem) -> U8Array | InvalidImageError:
        try:
            return preprocessing.to_image(corpus.read(item))
        except InvalidImageError as error:
            return error

    with ThreadPoolExecutor(max_workers=1 if corpus.sequential else None) as pool:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            for item, result in zip(chunk, pool.map(read, chunk), strict=True):
                if isinstance(result, InvalidImageError):
                    quarantine.append((item.item_id, result.message))
                    continue
                x_NCHW[len(kept)] = result
                kept.append(item)
            progress("decode", start + len(chunk), len(items))
    x_NCHW.flush()
    del x_NCHW
    if not kept:
        raise InvalidCorpusError(
            f"none of the {len(items)} images of {corpus.spec!r} can be decoded; the first: {quarantine[0][1]}"
        )
    _cut(place, count=len(kept), shape=shape)
    classes = sorted({item.label for item in kept if item.label is not None})
    numbers = {label: number for number, label in enumerate(classes)}
    facts = {
        "spec": corpus.spec,
        "digest": digest,
        "labels": [-1 if item.label is None else numbers[item.label] for item in kept],
        "classes": classes,
        "quarantine": quarantine,
    }
    temporary = place / "cache.json.tmp"
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.replace(place / "cache.json")


def _cut(place: Path, *, count: int, shape: tuple[int, ...]) -> None:
    """Renames the array, without the empty rows at its end."""
    if count == shape[0]:
        (place / "all.npy").rename(place / "images.npy")
        return
    full = np.load(place / "all.npy", mmap_mode="r")
    x_NCHW: Any = np.lib.format.open_memmap(place / "images.npy", mode="w+", dtype=np.uint8, shape=(count, *shape[1:]))
    for start in range(0, count, _CHUNK):
        x_NCHW[start : start + _CHUNK] = full[start : min(start + _CHUNK, count)]
    x_NCHW.flush()
    (place / "all.npy").unlink()
