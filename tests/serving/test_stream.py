"""StreamSearch over a real connection, from both clients: order, errors, backpressure, lost servers."""

import asyncio
import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest

from serving.servicers.search import SearchServicer
from tests.serving.conftest import DIMENSION, config, make_vectors, running
from tests.serving.images import make_png
from vicinal.client import AsyncClient, Client, RetryPolicy, SearchResult
from vicinal.errors import (
    DimensionMismatchError,
    InvalidImageError,
    InvalidVectorError,
    ItemNotFoundError,
    OverloadedError,
    UnavailableError,
)
from vicinal.store import Store


def test_results_come_in_order_and_equal_those_alone(client: Client) -> None:
    x_QD = make_vectors(300, seed=6)
    streamed = list(client.stream_search(x_QD, neighbor_count=5))
    assert len(streamed) == 300
    for x_D, found in zip(x_QD[::10], streamed[::10], strict=True):
        assert isinstance(found, SearchResult)
        alone = client.search(x_D, neighbor_count=5)
        assert found.item_ids == alone.item_ids
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-5, atol=1e-5)
        assert found.snapshot == alone.snapshot


def test_a_wrong_query_has_its_error_in_its_place(client: Client, image_client: Client) -> None:
    bad = np.full(DIMENSION, np.nan, np.float32)
    queries = [*make_vectors(20), bad, np.ones(3), "item-00003", "nobody", *make_vectors(20)]
    found = list(client.stream_search(queries))
    kinds = [type(one) for one in found]
    assert kinds[20:24] == [InvalidVectorError, DimensionMismatchError, SearchResult, ItemNotFoundError]
    assert set(kinds[:20] + kinds[24:]) == {SearchResult}
    images = list(image_client.stream_search([make_png(3), b"text", "image-00004"], neighbor_count=1))
    assert isinstance(images[0], SearchResult)
    assert images[0].item_ids == ["image-00003"]
    assert isinstance(images[1], InvalidImageError)


def test_slow_indexes_and_further_options_stream_too(vector_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchServicer, "_fast_path", lambda _: None)
    with running(vector_store, config()) as (_, address), Client(address) as client:
        found = list(client.stream_search(make_vectors(30), neighbor_count=3))
        assert all(isinstance(one, SearchResult) for one in found)
        pinned = list(client.stream_search(make_vectors(3), snapshot="snapshots/000001", min_score=-1e9))
        assert all(isinstance(one, SearchResult) and one.snapshot.name == "snapshots/000001" for one in pinned)


def test_no_queries_give_no_results(client: Client) -> None:
    assert list(client.stream_search([])) == []


def test_queries_are_taken_no_faster_than_they_are_answered(client: Client) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield f"item-{number % 500:05d}"

    stream = client.stream_search(endless(), window=10)
    for _ in range(5):
        next(stream)
    time.sleep(0.3)
    assert taken <= 5 + 10 + 1
    stream.close()  # type: ignore[attr-defined]


def test_an_error_of_the_callers_own_iterable_is_raised(client: Client) -> None:
    def broken() -> Iterator[str]:
        yield "item-00001"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(client.stream_search(broken()))


def test_streams_are_bounded(vector_store: Store) -> None:
    with running(vector_store, config("limits.max_streams=1")) as (_, address), Client(address) as client:
        first = client.stream_search(itertools.cycle(["item-00001"]))
        next(first)
        with pytest.raises(OverloadedError, match="streams are open"):
            list(client.stream_search(["item-00001"]))
        first.close()  # type: ignore[attr-defined]


def test_no_server_is_unavailable() -> None:
    with Client("127.0.0.1:1", retry=RetryPolicy(attempt_count=2, first_s=0.01)) as client:
        stream = client.stream_search(["a"])
        with pytest.raises(UnavailableError, match="no server answers"):
            list(stream)


def test_the_asyncio_client_streams_too(vector_store: Store) -> None:
    from serving.server import Server

    async def run() -> None:
        server = Server(vector_store, config())
        port = await server.start()
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            queries = [*make_vectors(100), "nobody"]
            found = [one async for one in client.stream_search(queries, neighbor_count=2)]
            assert len(found) == 101
            assert isinstance(found[-1], ItemNotFoundError)
            assert isinstance(found[0], SearchResult)
            assert found[0].item_ids == (await client.search(queries[0], neighbor_count=2)).item_ids
        await server.stop()

    asyncio.run(run())


def test_without_a_snapshot_every_query_has_that_error(store: Store) -> None:
    from vicinal.errors import NoActiveSnapshotError

    with running(store, config()) as (_, address), Client(address) as client:
        found = list(client.stream_search(make_vectors(3)))
        assert [type(one) for one in found] == [NoActiveSnapshotError] * 3
