"""A server over two snapshots of one space, to which items are written."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.serving.conftest import DIMENSION, add_snapshot, config, make_items, make_vectors, running
from vicinal.client import Client
from vicinal.store import Store

COUNT = 200
FAR = np.full(DIMENSION, 30.0, np.float32)


@pytest.fixture(params=["flat", "hnsw"])
def served(request: pytest.FixtureRequest, store: Store) -> Store:
    """Two snapshots of the same space; the first is active."""
    for count in (COUNT, COUNT + 50):
        add_snapshot(store, make_vectors(count), kind=request.param, items=make_items(count), fingerprint="ab" * 32)
    store.activate("1")
    return store


@pytest.fixture
def client(served: Store) -> Iterator[Client]:
    with running(served, config("limits.max_pending_items=50")) as (_, address), Client(address) as client:
        yield client
