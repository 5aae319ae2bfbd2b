"""Queries that come together are searched together where that pays: scans, and an index that one thread asks."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.device import Dispatcher
from index.kind import INDEX_FILE
from index.storage import read_faiss
from serving.server import Server
from tests.serving.conftest import add_snapshot, config, make_vectors
from vicinal.client import AsyncClient
from vicinal.errors import DimensionMismatchError, InvalidVectorError
from vicinal.store import Store

COUNT = 40


async def ask_together(server: Server, address: str) -> list[Any]:
    """Asks many queries at once, among them two that are wrong."""
    queries: list[Any] = list(make_vectors(COUNT, seed=5))
    queries[7], queries[30] = np.full(16, np.nan, np.float32), np.ones(3, np.float32)
    async with AsyncClient(address) as client:
        calls = (client.search(x_D, neighbor_count=1 + place % 2 * 4) for place, x_D in enumerate(queries))
        found = await asyncio.gather(*calls, return_exceptions=True)
    assert server.admission.in_flight == 0
    return found


def check(found: list[Any], store: Store) -> None:
    snapshot = store.path("snapshots", "000001")
    x_ND = np.load(snapshot / "vectors.npy")
    for place, (reply, x_D) in enumerate(zip(found, make_vectors(COUNT, seed=5), strict=True)):
        if place == 7:
            assert isinstance(reply, InvalidVectorError)
        elif place == 30:
            assert isinstance(reply, DimensionMismatchError)
        else:
            rows = np.argsort(((x_ND - x_D) ** 2).sum(1), kind="stable")[: 1 + place % 2 * 4]
            assert reply.item_ids == [f"item-{row:05d}" for row in rows]


def run(store: Store, change: Any) -> tuple[list[Any], int]:
    """Serves a store whose generation was changed, and asks it; gives the answers and the number of batches."""

    async def serve() -> tuple[list[Any], int]:
        server = Server(store, config())
        port = await server.start()
        change(server.generations.current())
        found = await ask_together(server, f"127.0.0.1:{port}")
        dispatcher = server._servicers[0]._dispatcher  # type: ignore[attr-defined]
        await server.stop()
        return found, dispatcher.batch_count

    return asyncio.run(serve())


def test_an_index_that_is_not_safe_for_concurrent_reads_is_asked_in_batches(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_snapshot(store, make_vectors(500), kind="ivf_flat")
    store.activate("000001")

    def on_one_thread(generation: Any) -> None:
        # What a GPU gets, over the same lists on the CPU; all of them are probed, so that answers are exact.
        faiss_index = read_faiss(generation.snapshot.path / INDEX_FILE)
        generation.snapshot._engine._searcher = Dispatcher(faiss_index, list_count=faiss_index.nlist)
        generation.snapshot.default_effort = faiss_index.nlist

    found, batch_count = run(store, on_one_thread)
    check(found, store)
    assert 2 <= batch_count < COUNT


def test_scans_that_take_long_are_made_together(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_snapshot(store, make_vectors(500))
    store.activate("000001")
    found, batch_count = run(store, lambda generation: object.__setattr__(generation, "quick", False))
    check(found, store)
    assert 2 <= batch_count < COUNT


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_quick_searches_are_not_gathered(tmp_path: Path, kind: str) -> None:
    store = Store.create(tmp_path / "workspace")
    add_snapshot(store, make_vectors(500), kind=kind)
    store.activate("000001")
    found, batch_count = run(store, lambda generation: None)
    assert batch_count == 0
    assert sum(isinstance(one, Exception) for one in found) == 2
