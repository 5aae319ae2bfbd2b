"""The image cache: a corpus decoded once into one memory-mapped uint8 array.

    DIRECTORY/images.npy   x_NCHW, uint8
              cache.json   what it was made from, counts, labels, quarantine

It is complete when ``cache.json`` is there. Memory is bounded by the chunk that is being decoded: the
corpus is gone through twice, once to know it and once to decode it. A build that was interrupted goes
on where ``progress.json`` says.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.artifact import canonical_digest, storage_guard
from vicinal.config import to_mapping
from vicinal.corpus import Corpus, CorpusItem, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.locks import locked
from vicinal.modalities.image import Preprocessing, decode
from vicinal.types import I64Array, U8Array

Progress = Callable[[str, int, int], None]
"""Called with a word, how many are done, and of how many."""

_CHUNK, _SAVE_EVERY = 1024, 8
_SAMPLE = 64
_SMALLEST, _LARGEST = 16, 1024
_ALL, _IMAGES, _FACTS, _PROGRESS = "all.npy", "images.npy", "cache.json", "progress.json"


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
    """Item id and reason of every image that could not be read or decoded."""
    digest: str
    """64 hexadecimal digits: what was asked for and which items were there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What a first look over a corpus shows."""

    digest: str
    count: int
    classes: tuple[str, ...]
    quarantine: tuple[tuple[str, str], ...]


@dataclass(slots=True, kw_only=True)
class _Done:
    """How far a build has come."""

    items: int = 0
    labels: list[int] = field(default_factory=list)
    quarantine: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps({"items": self.items, "labels": self.labels, "quarantine": self.quarantine})


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
        survey = _survey(corpus, preprocessing)
        place = directory / survey.digest[:32]
        if not (place / _FACTS).is_file():
            with storage_guard(place):
                place.mkdir(parents=True, exist_ok=True)
                with locked(directory / f"{place.name}.lock", shared=False, wait=True):
                    if not (place / _FACTS).is_file():
                        _build(place, corpus, survey, preprocessing, progress=progress)
    facts = json.loads((place / _FACTS).read_text(encoding="utf-8"))
    return ImageCache(
        x_NCHW=np.load(place / _IMAGES, mmap_mode="r"),
        labels_N=np.asarray(facts["labels"], dtype=np.int64),
        classes=tuple(facts["classes"]),
        quarantine=tuple((item_id, reason) for item_id, reason in facts["quarantine"]),
        digest=survey.digest,
    )


def sample_shape(spec: str) -> tuple[int, int]:
    """Looks at a few images of a corpus.

    Returns:
        Channels that suit them (1 when all are gray), and a side in pixels: the median shorter side,
        a multiple of 4 between 16 and 1024.

    Raises:
        InvalidCorpusError: the corpus cannot be read, or none of the images that were tried can be decoded.
    """
    sides: list[int] = []
    gray = True
    reason = ""
    with open_corpus(spec) as corpus:
        for item in _spread(corpus):
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
    return (1 if gray else 3), min(max(side, _SMALLEST), _LARGEST)


def _spread(corpus: Corpus) -> list[CorpusItem]:
    """Returns some items from all over a corpus, at least 64 where there are so many; memory is bounded."""
    found: list[CorpusItem] = []
    stride = 1
    for number, item in enumerate(corpus):
        if number % stride == 0:
            found.append(item)
        if len(found) == 2 * _SAMPLE:
            found, stride = found[::2], 2 * stride
    return found


def _survey(corpus: Corpus, preprocessing: Preprocessing) -> _Survey:
    digest = hashlib.sha256(canonical_digest(to_mapping(preprocessing)).encode())
    count, classes, quarantine = 0, set(), []
    for entry in corpus.scan():
        if not isinstance(entry, CorpusItem):
            quarantine.append((entry.item_id, entry.message))
            continue
        digest.update(json.dumps([entry.item_id, entry.stamp, entry.label]).encode())
        count += 1
        if entry.label is not None:
            classes.add(entry.label)
    if not count:
        raise InvalidCorpusError(f"there are no images in {corpus.spec!r}")
    return _Survey(digest=digest.hexdigest(), count=count, classes=tuple(sorted(classes)), quarantine=tuple(quarantine))


def _build(place: Path, corpus: Corpus, survey: _Survey, preprocessing: Preprocessing, *, progress: Progress) -> None:
    shape = (survey.count, preprocessing.channels, preprocessing.height, preprocessing.width)
    x_NCHW, done = _opened(place, shape)
    numbers: dict[str | None, int] = {label: number for number, label in enumerate(survey.classes)}

    def read(item: CorpusItem) -> U8Array | InvalidImageError:
        try:
            return preprocessing.to_image(corpus.read(item))
        except InvalidImageError as error:
            return error

    with ThreadPoolExecutor(max_workers=1 if corpus.sequential else None) as pool:
        for number, chunk in enumerate(_chunks(itertools.islice(corpus, done.items, None)), start=1):
            if done.items + len(chunk) > survey.count:
                raise InvalidCorpusError(f"{corpus.spec!r} has grown while it was read; run the command again")
            for item, result in zip(chunk, pool.map(read, chunk), strict=True):
                if isinstance(result, InvalidImageError):
                    done.quarantine.append((item.item_id, result.message))
                    continue
                x_NCHW[len(done.labels)] = result
                done.labels.append(numbers.get(item.label, -1))
            done.items += len(chunk)
            if number % _SAVE_EVERY == 0:
                x_NCHW.flush()
                _write(place / _PROGRESS, done.as_json())
            progress("decode", done.items, survey.count)
    x_NCHW.flush()
    del x_NCHW
    _finish(place, corpus.spec, survey, done, shape=shape)


def _chunks(items: Iterator[CorpusItem]) -> Iterator[list[CorpusItem]]:
    while chunk := list(itertools.islice(items, _CHUNK)):
        yield chunk


def _opened(place: Path, shape: tuple[int, ...]) -> tuple[Any, _Done]:
    """Returns the array of a build that was interrupted and how far it had come, or a new one."""
    path = place / _ALL
    if path.is_file() and (place / _PROGRESS).is_file():
        try:
            raw = json.loads((place / _PROGRESS).read_text(encoding="utf-8"))
            pairs = [(item_id, reason) for item_id, reason in raw["quarantine"]]
            done = _Done(items=raw["items"], labels=raw["labels"], quarantine=pairs)
            x_NCHW = np.load(path, mmap_mode="r+")
            if x_NCHW.shape == shape and done.items == len(done.labels) + len(done.quarantine):
                return x_NCHW, done
        except (ValueError, KeyError, TypeError):
            pass  # what was left is of no use: begin anew
    for old in place.iterdir():
        old.unlink()
    header = _header(shape)
    size = len(header) + int(np.prod(shape))
    with path.open("wb") as stream:
        stream.write(header)
        stream.flush()
        # Writing into a mapped hole of a full disk would kill the process; this says so first.
        os.posix_fallocate(stream.fileno(), 0, size)
    return np.load(path, mmap_mode="r+"), _Done()


def _finish(place: Path, spec: str, survey: _Survey, done: _Done, *, shape: tuple[int, ...]) -> None:
    """Cuts the empty rows off, and writes last what makes the cache complete."""
    if not done.labels:
        shutil.rmtree(place)
        raise InvalidCorpusError(
            f"none of the {survey.count} images of {spec!r} can be decoded; the first: {done.quarantine[0][1]}"
        )
    header = _header((len(done.labels), *shape[1:]))
    with (place / _ALL).open("r+b") as stream:
        stream.write(header)
        stream.truncate(len(header) + int(np.prod((len(done.labels), *shape[1:]))))
    (place / _ALL).rename(place / _IMAGES)
    facts = {
        "spec": spec,
        "digest": survey.digest,
        "labels": done.labels,
        "classes": survey.classes,
        "quarantine": [*survey.quarantine, *done.quarantine],
    }
    _write(place / _FACTS, json.dumps(facts))
    (place / _PROGRESS).unlink(missing_ok=True)


def _header(shape: Sequence[int]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, fields)
    content = stream.getvalue()
    assert len(content) == 128, "of one length for every shape of four axes"
    return content


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
