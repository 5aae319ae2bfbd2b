"""A snapshot of clustered items, and the log of changes beside it."""

from collections.abc import Iterator

import pytest

from index.build import BuildConfig, build
from index.delta import Delta
from index.snapshot import Snapshot
from tests.index.made_vectors import clustered, make_item, put_embeddings
from vicinal.store import Store
from vicinal.types import Metric

COUNT, DIMENSION = 800, 8
X = clustered(COUNT + 100, DIMENSION)


@pytest.fixture(params=["flat", "hnsw"])
def snapshot(request: pytest.FixtureRequest, store: Store) -> Iterator[Snapshot]:
    items = [make_item(number, shop=f"shop-{number % 3}") for number in range(COUNT)]
    put_embeddings(store, X[:COUNT], metric=Metric.L2, items=items)
    report = build(store, config=BuildConfig(kind=request.param, query_count=20))
    with Snapshot.open(store.path("snapshots", report.version)) as opened:
        yield opened


def open_delta(store: Store) -> Delta:
    return Delta(store, fingerprint="f" * 64, dimension=DIMENSION, metric=Metric.L2)
