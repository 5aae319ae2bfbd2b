"""Vectors of another encoder are answered through a bridge, and never without saying so."""

from collections.abc import Iterator

import numpy as np
import pytest

from index.bridge import Space, fit_bridge, save_bridge
from tests.serving.conftest import DIMENSION, add_snapshot, config, make_vectors, running
from vicinal.client import Client, SearchResult, SupportExample
from vicinal.errors import DimensionMismatchError, FingerprintMismatchError, InvalidVectorError, VicinalError
from vicinal.store import Store
from vicinal.types import F32Array, Metric
from vicinal.v1 import types_pb2

OLD, NEW = "a" * 64, "b" * 64
COUNT, OTHER_DIMENSION = 400, 24


def elsewhere(x_ND: F32Array) -> F32Array:
    """The same items as another encoder sees them."""
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((OTHER_DIMENSION, OTHER_DIMENSION)))
    y_NE: F32Array = (2 * x_ND @ q[:DIMENSION] + 0.5).astype(np.float32)
    return y_NE


def add_bridge(store: Store) -> None:
    x_ND = make_vectors(COUNT)
    spaces = [Space(fingerprint=NEW, dimension=OTHER_DIMENSION, metric=Metric.L2)]
    spaces.append(Space(fingerprint=OLD, dimension=DIMENSION, metric=Metric.L2))
    bridge, quality = fit_bridge(elsewhere(x_ND), x_ND, source=spaces[0], target=spaces[1])
    save_bridge(store, bridge, quality, pair_count=COUNT)


@pytest.fixture(params=["flat", "hnsw"])
def client(request: pytest.FixtureRequest, store: Store) -> Iterator[Client]:
    add_snapshot(store, make_vectors(COUNT), fingerprint=OLD, kind=request.param)
    store.activate("000001")
    with running(store, config()) as (_, address), Client(address) as client:
        yield client


def test_a_bridged_query_finds_its_item_and_says_so(client: Client, store: Store) -> None:
    x_ND = make_vectors(COUNT)
    y_NE = elsewhere(x_ND)
    with pytest.raises(FingerprintMismatchError, match="vicinal bridge"):
        client.search(y_NE[5], fingerprint=NEW)
    add_bridge(store)
    found = _patiently(client, y_NE[5])
    assert (found.item_ids[0], found.plan.bridged, found.snapshot.fingerprint) == ("item-00005", True, OLD)
    own = client.search(x_ND[5])
    assert (own.item_ids[0], own.plan.bridged) == ("item-00005", False)
    named = client.search(x_ND[5], fingerprint=OLD)
    assert (named.item_ids, named.plan.bridged) == (own.item_ids, False)
    np.testing.assert_allclose(found.scores, own.scores, atol=1e-2)
    filtered = client.search(y_NE[5], fingerprint=NEW, excluded_item_ids=["item-00005"])
    assert filtered.plan.bridged
    assert filtered.item_ids == own.item_ids[1:] + filtered.item_ids[-1:]


def _patiently(client: Client, y_E: F32Array) -> SearchResult:
    """Asks again: that there was no bridge is remembered for a second."""
    for _ in range(100):
        try:
            return client.search(y_E, fingerprint=NEW)
        except FingerprintMismatchError:
            import time

            time.sleep(0.05)
    raise AssertionError("the bridge was never found")


def test_batches_and_examples_are_bridged_too(client: Client, store: Store) -> None:
    add_bridge(store)
    x_ND = make_vectors(COUNT)
    y_NE = elsewhere(x_ND)
    for queries in (y_NE[:10], list(y_NE[:10])):
        reply = client.batch_search(queries, fingerprint=NEW, neighbor_count=1)
        assert reply.plan.bridged
        results = [result.item_ids[0] for result in reply.results if not isinstance(result, VicinalError)]
        assert results == [f"item-{row:05d}" for row in range(10)]
    assert not client.batch_search(x_ND[:3], fingerprint=OLD).plan.bridged
    mixed = types_pb2.Query(examples=types_pb2.Examples(positives=[_query(y_NE[3], NEW), _query(x_ND[3], "")]))
    found = client.search(mixed, neighbor_count=1)
    assert (found.item_ids, found.plan.bridged) == (["item-00003"], True)


def _query(x_D: F32Array, fingerprint: str) -> types_pb2.Query:
    vector = types_pb2.Vector(packed=x_D.astype("<f4").tobytes(), fingerprint=fingerprint)
    return types_pb2.Query(vector=vector)


def test_wrong_vectors_of_another_space_are_refused(client: Client, store: Store) -> None:
    add_bridge(store)
    y_NE = elsewhere(make_vectors(COUNT))
    with pytest.raises(DimensionMismatchError, match="24 dimensions, got 16"):
        client.search(make_vectors(1)[0], fingerprint=NEW)
    broken_E = y_NE[0].copy()
    broken_E[3] = np.nan
    with pytest.raises(InvalidVectorError):
        client.search(broken_E, fingerprint=NEW)
    reply = client.batch_search(np.stack([y_NE[0], broken_E]), fingerprint=NEW)
    assert isinstance(reply.results[1], InvalidVectorError)
    assert not isinstance(reply.results[0], VicinalError)


def test_few_shot_takes_no_vector_of_another_space(client: Client, store: Store) -> None:
    add_bridge(store)
    y_NE = elsewhere(make_vectors(COUNT))
    support = [SupportExample(query="item-00001", label="a"), SupportExample(query="item-00002", label="b")]
    reply = client.classify([_query(y_NE[1], NEW)], support=support)
    assert isinstance(reply.results[0], FingerprintMismatchError)
