"""Labelled embeddings for the few-shot benchmarks, with support and test kept apart."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vicinal.embeddings import Embeddings
from vicinal.store import Store
from vicinal.types import F32Array, I64Array

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Embeddings to draw supports from, and others to judge by."""

    name: str
    train_ND: F32Array
    y_N: I64Array
    test_QD: F32Array
    y_Q: I64Array
    classes: tuple[str, ...]


def of_workspace(name: str, root: Path, *, limit: int) -> Labelled:
    """Reads the newest embeddings of a workspace; items under a folder ``test`` are the test split.

    Labels are those that the corpus names; the encoder has not seen them. Without such a folder
    every fifth item is test.
    """
    embeddings = Embeddings.open(Store(root).path("embeddings", "latest"), verify=False)
    items = embeddings.items
    labels = np.array([label or "" for label in items.column("label").to_pylist()])
    ids = items.item_ids(np.arange(items.count))
    is_test = np.array([bool({"test", "t10k"} & set(item.replace("=", "/").split("/"))) for item in ids])
    if not is_test.any():
        is_test = np.arange(items.count) % 5 == 0
    rows = np.flatnonzero(labels != "")
    classes, y_M = np.unique(labels[rows], return_inverse=True)
    train, test = rows[~is_test[rows]], rows[is_test[rows]]
    number = dict(zip(rows.tolist(), y_M.tolist(), strict=True))
    test = np.random.default_rng(0).permutation(test)[:limit]
    return Labelled(
        name=name,
        train_ND=np.asarray(embeddings.vectors_ND[train]),
        y_N=np.array([number[row] for row in train.tolist()], dtype=np.int64),
        test_QD=np.asarray(embeddings.vectors_ND[np.sort(test)]),
        y_Q=np.array([number[row] for row in np.sort(test).tolist()], dtype=np.int64),
        classes=tuple(classes.tolist()),
    )


def of_pixels(*, count: int, limit: int) -> Labelled | None:
    """Reads Fashion-MNIST as vectors of pixels, None where it is not installed."""
    if not (FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        return None
    parts = []
    for split, size in (("train", count), ("t10k", limit)):
        with gzip.open(FASHION_MNIST / f"{split}-images-idx3-ubyte.gz") as stream:
            images = np.frombuffer(stream.read(16 + size * 784), np.uint8, offset=16).reshape(-1, 784)
        with gzip.open(FASHION_MNIST / f"{split}-labels-idx1-ubyte.gz") as stream:
            labels = np.frombuffer(stream.read(8 + size), np.uint8, offset=8)
        parts.append((images.astype(np.float32) / 255.0, labels.astype(np.int64)))
    (train_ND, y_N), (test_QD, y_Q) = parts
    return Labelled(
        name="fashion-mnist pixels",
        train_ND=train_ND,
        y_N=y_N,
        test_QD=test_QD,
        y_Q=y_Q,
        classes=tuple(map(str, range(10))),
    )


def of_clusters(*, count: int, limit: int) -> Labelled:
    """Makes clusters, two a class, for where no images are."""
    rng = np.random.default_rng(0)
    centers_KD = rng.standard_normal((20, 64))
    y_M = rng.integers(20, size=count + limit)
    x_MD = (centers_KD[y_M] + 2.0 * rng.standard_normal((count + limit, 64))).astype(np.float32)
    return Labelled(
        name="made clusters",
        train_ND=x_MD[:count],
        y_N=y_M[:count] % 10,
        test_QD=x_MD[count:],
        y_Q=y_M[count:] % 10,
        classes=tuple(map(str, range(10))),
    )
