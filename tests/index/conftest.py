"""Small corpora of vectors, embedded and built without images."""

from pathlib import Path

import pytest

from tests.index.made_vectors import AddEmbeddings, make_item
from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, Metric


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "workspace")


@pytest.fixture
def add_embeddings(store: Store) -> AddEmbeddings:
    def add(x_ND: F32Array, *, metric: Metric = Metric.L2, items: list[Item] | None = None, **info: object) -> str:
        rows = items or [make_item(number) for number in range(len(x_ND))]
        with store.stage("embeddings") as staging:
            known = EmbeddingsInfo(dimension=x_ND.shape[1], metric=metric, **info)  # type: ignore[arg-type]
            write_embeddings(staging.path, x_ND, rows, info=known)
            return staging.commit()

    return add
