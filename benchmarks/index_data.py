"""Vectors for the benchmarks of the index: Fashion-MNIST as it is, and a made mixture of any size."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, Metric

FASHION = Path("/usr/share/datasets/fashion-mnist")
SLOTS = 10_000
"""Values of the made metadata column ``slot``: slot < 100 matches one item in a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Vectors, queries that are not among them, and how they are compared."""

    name: str
    x_ND: F32Array
    x_QD: F32Array
    metric: Metric


def fashion_mnist(folder: Path) -> Data:
    """Returns the 60,000 training images as 784-d vectors and the 10,000 test images as queries, L2."""

    def read(name: str) -> F32Array:
        raw = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
        return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).astype(np.float32)

    return Data(name="fashion-mnist-784", x_ND=read("train"), x_QD=read("t10k"), metric=Metric.L2)


def mixture(count: int, dimension: int, *, query_count: int, seed: int) -> Data:
    """Returns unit vectors in overlapping clusters, and queries drawn alike, cosine.

    The variance along the j-th direction is 1/j, among the centers and around each: about what the embeddings of our
    encoders have. With as much variance in all directions nothing is near anything.
    """
    rng = np.random.default_rng(seed)
    spread_DD = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0].astype(np.float32)
    spread_DD /= np.sqrt(np.arange(1, dimension + 1, dtype=np.float32))[:, None]
    centers_CD = rng.standard_normal((max(10, count // 1000), dimension), dtype=np.float32)
    total = count + query_count
    x_ND = rng.standard_normal((total, dimension), dtype=np.float32)
    x_ND += centers_CD[rng.integers(len(centers_CD), size=total)]
    x_ND = x_ND @ spread_DD
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    name = f"mixture-{count // 1000}kx{dimension}"
    return Data(name=name, x_ND=x_ND[:count], x_QD=x_ND[count:], metric=Metric.COSINE)


def put(store: Store, data: Data, *, seed: int) -> str:
    """Puts vectors into a workspace, with a random ``slot`` for each item; returns the version."""
    slots_N = np.random.default_rng(seed).integers(SLOTS, size=len(data.x_ND)).tolist()
    now = datetime.now(UTC)

    def items() -> Iterator[Item]:
        for row, slot in enumerate(slots_N):
            yield Item(
                item_id=f"{row:08d}",
                digest=f"{row:064x}",
                source=data.name,
                path=f"{row:08d}",
                added_at=now,
                metadata={"slot": slot},
            )

    info = EmbeddingsInfo(dimension=data.x_ND.shape[1], metric=data.metric)
    with store.stage("embeddings") as staging:
        write_embeddings(staging.path, data.x_ND, items(), info=info, kinds={"slot": "int"})
        return staging.commit()
