"""Puts into a new snapshot what it shares with other artifacts: vectors, items and encoder."""

import os
import shutil
from pathlib import Path

import numpy as np

from index.exact import squared_norms
from index.kind import VECTORS_FILE
from index.snapshot import ENCODER_DIRECTORY
from index.storage import map_vectors
from vicinal.artifact import MANIFEST, read_manifest, storage_guard
from vicinal.embeddings import VECTORS, Embeddings
from vicinal.errors import FingerprintMismatchError, InvalidVectorError
from vicinal.item_table import ITEMS, LOOKUP
from vicinal.store import Store
from vicinal.types import F32Array, Metric

ENCODER_FORMAT_VERSION = 1
_UNIT_TOLERANCE = 1e-3


def collect(store: Store, source: Embeddings, directory: Path) -> F32Array:
    """Puts vectors, items and encoder into a snapshot, by hard link where the file system can.

    Args:
        store: the workspace.
        source: the embeddings; under cosine vectors of another length than 1 are copied at length 1.
        directory: the snapshot being written.

    Returns:
        The vectors of the snapshot, memory-mapped.

    Raises:
        InvalidVectorError: a zero vector under cosine; its item is named.
        FingerprintMismatchError: the encoder in the store is not the one that made the embeddings.
        StorageError: the disk is full or failed.
    """
    for name in (ITEMS, LOOKUP):
        link(source.path / name, directory / name)
    if _is_searchable(source):
        link(source.path / VECTORS, directory / VECTORS_FILE)
    else:
        _write_normalized(source, directory / VECTORS_FILE)
    if source.encoder:
        _link_encoder(store, source, directory / ENCODER_DIRECTORY)
    return map_vectors(directory / VECTORS_FILE)


def link(source: Path, target: Path) -> None:
    """Hard-links a file that never changes, or copies it where that cannot be.

    Raises:
        StorageError: the disk is full or failed.
    """
    try:
        os.link(source, target)
    except OSError:
        with storage_guard(target):
            shutil.copyfile(source, target)


def _is_searchable(source: Embeddings) -> bool:
    """Whether the vectors can be searched as they are: under cosine, whether they have unit length."""
    if source.metric is not Metric.COSINE:
        return True
    norms_N = np.sqrt(squared_norms(np.ascontiguousarray(source.vectors_ND)))
    if not norms_N.all():
        row = int(np.argmin(norms_N))
        raise InvalidVectorError(
            f"the embedding of item {source.items.item_ids([row])[0]!r} is zero, which has no direction under cosine",
            metadata={"row": str(row)},
        )
    return bool(np.abs(norms_N - 1).max() <= _UNIT_TOLERANCE)


def _write_normalized(source: Embeddings, path: Path) -> None:
    with storage_guard(path):
        x_ND = np.array(source.vectors_ND, dtype=np.float32)
        x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
        with path.open("wb") as stream:
            np.save(stream, x_ND)


def _link_encoder(store: Store, source: Embeddings, target: Path) -> None:
    assert source.encoder is not None, "called where there is one"
    encoder = store.path("encoders", source.encoder)
    manifest = read_manifest(encoder, kind="encoder", version=ENCODER_FORMAT_VERSION)
    if manifest.body["fingerprint"] != source.fingerprint:
        raise FingerprintMismatchError(
            f"encoders/{encoder.name} is not the encoder that made embeddings/{source.version}; embed again",
            metadata={"encoder": encoder.name, "embeddings": source.version},
        )
    with storage_guard(target):
        target.mkdir()
    for name in (MANIFEST, *manifest.files):
        with storage_guard(target):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
        link(encoder / name, target / name)
