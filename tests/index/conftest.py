"""A workspace, and a way to put vectors into it."""

from pathlib import Path

import pytest

from tests.index.made_vectors import AddEmbeddings, put_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, Metric


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "workspace")


@pytest.fixture
def add_embeddings(store: Store) -> AddEmbeddings:
    def add(x_ND: F32Array, *, metric: Metric = Metric.L2, items: list[Item] | None = None) -> str:
        return put_embeddings(store, x_ND, metric=metric, items=items)

    return add
