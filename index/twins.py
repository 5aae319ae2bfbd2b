"""Items that must find each other: exact duplicates, and an item and a slightly changed copy of its image."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from index.exact import pair_scores
from index.snapshot import Snapshot
from vicinal.corpus import Corpus, CorpusItem, open_corpus
from vicinal.errors import VicinalError
from vicinal.types import BoolArray, F32Array, I64Array, U8Array

if TYPE_CHECKING:
    from vicinal.encoder import Encoder

NEIGHBOR_COUNT = 10
_MOST_PAIRS = 500
_MOST_TWINS = 200
_LOOKED_AT = 20_000
_TIE_TOLERANCE = 1e-5
_CROP = 0.9
_LIGHT = (0.9, 1.1)


def duplicate_recall(snapshot: Snapshot, *, seed: int = 0) -> tuple[float, int]:
    """Returns the share of items with an exact duplicate that find one among their 10 nearest.

    Args:
        snapshot: searched at its default effort, the item itself left out.
        seed: seed of the choice, where there are more than 500 such items.

    Returns:
        The share, in [0, 1], 1 where there are no duplicates; and the number of items that were asked about.
    """
    numbers_N = snapshot.content_numbers
    order_N = np.argsort(numbers_N, kind="stable")
    same = numbers_N[order_N][1:] == numbers_N[order_N][:-1]
    first = order_N[:-1][same]
    if not len(first):
        return 1.0, 0
    second = order_N[1:][same]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(first))[:_MOST_PAIRS])
    rows_Q, twins_Q = first[chosen].astype(np.int64), second[chosen].astype(np.int64)
    x_QD = snapshot.vectors_of(rows_Q)
    found = snapshot.search(x_QD, neighbor_count=NEIGHBOR_COUNT + 1)
    other_QK = found.rows_QK != rows_Q[:, None]
    hits_Q = ((numbers_N[found.rows_QK] == numbers_N[rows_Q][:, None]) & other_QK).any(axis=1)
    hits_Q |= _as_near(snapshot, x_QD, twins_Q, found.scores_QK[:, -1])
    return float(hits_Q.mean()), len(rows_Q)


def twin_recall(snapshot: Snapshot, encoder: "Encoder", corpora: Sequence[str], *, seed: int = 0) -> tuple[float, int]:
    """Returns the share of slightly changed images that find their own item among their 10 nearest.

    An image is cut to 90% of its sides at a random place and its brightness changed by up to 10%.

    Args:
        snapshot: searched at its default effort.
        encoder: the one that made its embeddings.
        corpora: specs of the corpora its items came from; what can no longer be read is passed over.
        seed: seed of choice and changes.

    Returns:
        The share, in [0, 1], 1 where no image could be read; and the number of images.
    """
    rng = np.random.default_rng(seed)
    images: list[U8Array] = []
    rows: list[int] = []
    for corpus, item, row in _readable(snapshot, corpora, rng):
        with contextlib.suppress(VicinalError):
            images.append(_changed(encoder.decode(corpus.read(item)), rng))
            rows.append(row)
    if not images:
        return 1.0, 0
    x_QD = snapshot.check_queries(encoder.embed(np.stack(images)))
    found = snapshot.search(x_QD, neighbor_count=NEIGHBOR_COUNT)
    rows_Q = np.array(rows, dtype=np.int64)
    hits_Q = (found.rows_QK == rows_Q[:, None]).any(axis=1)
    hits_Q |= _as_near(snapshot, x_QD, rows_Q, found.scores_QK[:, -1])
    return float(hits_Q.mean()), len(rows)


def _as_near(snapshot: Snapshot, x_QD: F32Array, rows_Q: I64Array, edge_Q: F32Array) -> BoolArray:
    """Returns whether a row is as near as the last that was found: a tie is no miss."""
    own_Q = pair_scores(x_QD, snapshot.vectors_ND, rows_Q[:, None], metric=snapshot.metric)[:, 0]
    return np.asarray(own_Q >= edge_Q - _TIE_TOLERANCE * np.maximum(np.abs(edge_Q), 1e-6), dtype=np.bool_)


def _readable(
    snapshot: Snapshot, corpora: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[Corpus, CorpusItem, int]]:
    share = max(1, _MOST_TWINS // max(1, len(corpora)))
    for spec in corpora:
        with contextlib.suppress(VicinalError), open_corpus(spec) as corpus:
            items = list(itertools.islice(corpus, _LOOKED_AT))
            for place in np.sort(rng.permutation(len(items))[:share]).tolist():
                row = snapshot.items.find(items[place].item_id)
                if row is not None:
                    yield corpus, items[place], row


def _changed(x_CHW: U8Array, rng: np.random.Generator) -> U8Array:
    channels, height, width = x_CHW.shape
    top, left = rng.uniform(0, 1 - _CROP, 2) * (height, width)
    box = (left, top, left + _CROP * width, top + _CROP * height)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR, box=box) for plane in x_CHW]
    bright = np.stack([np.asarray(plane, dtype=np.float32) for plane in planes]) * rng.uniform(*_LIGHT)
    changed: U8Array = np.clip(np.rint(bright), 0, 255).astype(np.uint8)
    assert changed.shape == (channels, height, width)
    return changed
