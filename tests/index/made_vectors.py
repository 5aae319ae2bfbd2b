"""Vectors and items for the tests of the index."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, Metric

AddEmbeddings = Callable[..., str]


def clustered(count: int, dimension: int, *, seed: int = 0) -> F32Array:
    """Returns vectors in clusters, as embeddings are."""
    rng = np.random.default_rng(seed)
    centers_CD = rng.standard_normal((max(2, count // 50), dimension))
    x_ND = centers_CD[rng.integers(len(centers_CD), size=count)] + 0.4 * rng.standard_normal((count, dimension))
    return x_ND.astype(np.float32)


def make_item(number: int, *, digest: str | None = None, **metadata: object) -> Item:
    return Item(
        item_id=f"item-{number:06d}",
        digest=digest or f"{number:064x}",
        source="made",
        path=f"item-{number:06d}.png",
        added_at=datetime(2026, 11, 1, tzinfo=UTC),
        label=None,
        metadata=metadata,  # type: ignore[arg-type]
        stamp="",
    )


def put_embeddings(store: Store, x_ND: F32Array, *, metric: Metric = Metric.L2, items: list[Item] | None = None) -> str:
    rows = items or [make_item(number) for number in range(len(x_ND))]
    with store.stage("embeddings") as staging:
        write_embeddings(staging.path, x_ND, rows, info=EmbeddingsInfo(dimension=x_ND.shape[1], metric=metric))
        return staging.commit()
