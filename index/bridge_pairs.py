"""Fits a bridge from what is served to a new encoder: a sample of the items is embedded by both."""

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from index.bridge import Bridge, BridgeQuality, Space, fit_bridge, save_bridge
from vicinal.corpus import Corpus, open_corpus
from vicinal.embeddings import Embeddings
from vicinal.encoder import Encoder
from vicinal.errors import FingerprintMismatchError, InvalidArgumentError, InvalidImageError
from vicinal.store import Store
from vicinal.types import F32Array, I64Array, U8Array

PAIR_COUNT = 2000
_LOOKED_AT = 200_000
_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A bridge in the store."""

    version: str
    """Version in the family ``bridges``."""
    bridge: Bridge
    """The bridge."""
    quality: BridgeQuality
    """What it is worth."""
    pair_count: int
    """Items that both encoders embedded."""


def build_bridge(
    store: Store,
    old: Embeddings,
    encoder: str,
    *,
    corpora: Sequence[str] = (),
    pair_count: int = PAIR_COUNT,
    seed: int = 0,
) -> Built:
    """Embeds a sample of known items with another encoder, and fits a bridge to the pairs.

    Args:
        store: the workspace.
        old: embeddings of one encoder.
        encoder: version of the other encoder.
        corpora: specs of the corpora to read images from. Default: those of the embeddings.
        pair_count: items to embed, at most, of the first 200,000 of each corpus.
        seed: seed of the choice.

    Raises:
        ArtifactNotFoundError: no such encoder.
        FingerprintMismatchError: both encoders are the same.
        InvalidArgumentError: fewer than 50 images of the embeddings are still there.
        InvalidCorpusError: a corpus cannot be read.
    """
    model = Encoder.load(store.path("encoders", encoder))
    if model.fingerprint == old.fingerprint:
        raise FingerprintMismatchError(
            f"encoders/{encoder} made embeddings/{old.version} itself; a bridge is between two encoders"
        )
    rows_N, y_NE = _embed_sample(old, model, corpora or old.corpora, count=pair_count, seed=seed)
    if not len(rows_N):
        raise InvalidArgumentError(f"no image of embeddings/{old.version} is still there unchanged; name --corpus")
    bridge, quality = fit_bridge(
        np.ascontiguousarray(old.vectors_ND[rows_N]),
        y_NE,
        source=Space(fingerprint=old.fingerprint, dimension=old.dimension, metric=old.metric),
        target=Space(fingerprint=model.fingerprint, dimension=model.dimension, metric=model.metric),
        seed=seed,
    )
    version = save_bridge(store, bridge, quality, pair_count=len(rows_N))
    return Built(version=version, bridge=bridge, quality=quality, pair_count=len(rows_N))


def _embed_sample(
    old: Embeddings, model: Encoder, corpora: Sequence[str], *, count: int, seed: int
) -> tuple[I64Array, F32Array]:
    rng = np.random.default_rng(seed)
    share = -(-count // len(corpora)) if corpora else 0
    rows: list[int] = []
    parts: list[F32Array] = []
    for spec in corpora:
        with open_corpus(spec) as corpus:
            found = _images(old, model, corpus, count=share, rng=rng)
            while batch := list(itertools.islice(found, _BATCH)):
                rows += [row for row, _ in batch]
                parts.append(model.embed(np.stack([image for _, image in batch])))
    y_NE = np.concatenate(parts) if parts else np.zeros((0, model.dimension), np.float32)
    return np.array(rows, dtype=np.int64), y_NE


def _images(
    old: Embeddings, model: Encoder, corpus: Corpus, *, count: int, rng: np.random.Generator
) -> Iterator[tuple[int, U8Array]]:
    """Yields rows and images of items whose content is still what was embedded."""
    items = list(itertools.islice(corpus, _LOOKED_AT))
    for place in np.sort(rng.permutation(len(items))[:count]).tolist():
        row = old.items.find(items[place].item_id)
        if row is None:
            continue
        with contextlib.suppress(InvalidImageError):
            content = corpus.read(items[place])
            if hashlib.sha256(content).hexdigest() == old.items.item(row).digest:
                yield row, model.decode(content)
