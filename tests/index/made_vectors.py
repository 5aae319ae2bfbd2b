"""Vectors and items for the tests of the index."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from vicinal.items import Item
from vicinal.types import F32Array

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
