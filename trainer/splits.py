"""Labelled images for evaluation: two splits of the same classes, and draws of a few labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.cache import Progress, open_or_build
from vicinal.errors import InvalidCorpusError
from vicinal.modalities.image import Preprocessing
from vicinal.types import I64Array, U8Array


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What to measure."""

    shots: tuple[int, ...] = (1, 5, 10, 50)
    """Labels a class for the few-shot rows."""
    draws: int = 20
    """Draws of labelled images for each number of shots."""
    scratch_draws: int = 3
    """Draws for which the network is also trained from scratch; 0 leaves that out."""
    seed: int = 0
    """Of every draw."""
    neighbor_count: int = 20
    """Neighbours that vote."""
    train_limit: int = 60_000
    """Most labelled images that are used, drawn at random."""
    test_limit: int = 10_000
    """Most queries, drawn at random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Labelled images."""

    x_NCHW: U8Array
    """uint8."""
    y_N: I64Array
    """Classes, from 0; the same numbers in both splits."""


def read_splits(
    train: str, test: str, preprocessing: Preprocessing, config: EvaluationConfig, *, place: Path, progress: Progress
) -> tuple[Split, Split]:
    """Reads the two splits at the encoder's size.

    Args:
        train: corpus spec of the labelled images.
        test: corpus spec of the queries.
        preprocessing: of the encoder.
        config: limits and seed.
        place: where image caches are.
        progress: called as images are decoded.

    Raises:
        InvalidCorpusError: a corpus cannot be read, or does not name classes that both have.
    """
    plain = Preprocessing(
        channels=preprocessing.channels,
        height=preprocessing.height,
        width=preprocessing.width,
        resize=preprocessing.resize,
    )
    caches = [open_or_build(place, spec, plain, progress=progress) for spec in (train, test)]
    shared = sorted(set(caches[0].classes) & set(caches[1].classes))
    if len(shared) < 2:
        raise InvalidCorpusError(
            f"{train!r} names {len(caches[0].classes)} classes and {test!r} {len(caches[1].classes)}, "
            f"{len(shared)} of them in both; evaluation needs 2 or more, as names of folders"
        )
    numbers = {label: number for number, label in enumerate(shared)}
    splits = []
    for cache, limit, salt in zip(caches, (config.train_limit, config.test_limit), (2, 3), strict=True):
        known_C = np.array([numbers.get(label, -1) for label in cache.classes] + [-1], dtype=np.int64)
        y_N = known_C[cache.labels_N]
        rows = np.random.default_rng([config.seed, salt]).permutation(np.flatnonzero(y_N >= 0))[:limit]
        splits.append(Split(x_NCHW=np.asarray(cache.x_NCHW[np.sort(rows)]), y_N=y_N[np.sort(rows)]))
    return splits[0], splits[1]


def draw_shots(y_N: I64Array, *, count: int, seed: list[int]) -> I64Array:
    """Returns the rows of ``count`` images of each class, drawn at random, int64."""
    random = np.random.default_rng(seed)
    picks = [random.permutation(np.flatnonzero(y_N == c))[:count] for c in range(int(y_N.max()) + 1)]
    return np.concatenate(picks).astype(np.int64)
