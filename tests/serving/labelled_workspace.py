"""A workspace of made-up clusters with a server on it, for the tests of few-shot and labels."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from index.build import BuildConfig, build
from serving.config import ServeConfig, load_config
from serving.server import Server
from vicinal.client import Label
from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import F32Array, I64Array, Metric

CLASSES = ("boat", "bird", "shoe", "tree")


def made_clusters(count: int, *, dimension: int = 32, noise: float = 1.0, seed: int = 0) -> tuple[F32Array, I64Array]:
    """Returns vectors (N, D) in one cluster for each of CLASSES and their class numbers (N,)."""
    centers_CD = np.random.default_rng(7).standard_normal((len(CLASSES), dimension))
    rng = np.random.default_rng(seed)
    y_N = np.arange(count) % len(CLASSES)
    x_ND = centers_CD[y_N] + noise * rng.standard_normal((count, dimension))
    return x_ND.astype(np.float32), y_N.astype(np.int64)


def item_id(number: int) -> str:
    """Returns the id of the item in a row."""
    return f"{CLASSES[number % len(CLASSES)]}/{number:05d}.png"


def true_label(item: str) -> str:
    """Returns the class of an item, which its id starts with."""
    return item.partition("/")[0]


def first(count: int, *, author: str = "ann") -> list[Label]:
    """Returns true labels of the first items."""
    return [Label(item_id=item_id(i), label=CLASSES[i % 4], author=author) for i in range(count)]


def add_snapshot(store: Store, x_ND: F32Array, *, digests: list[str] | None = None, seed: str = "") -> str:
    """Embeds, builds and activates made-up vectors; returns the version."""
    items = [
        Item(
            item_id=item_id(i),
            digest=digests[i] if digests else hashlib.sha256(f"{seed}{i}".encode()).hexdigest(),
            source="made",
            path=item_id(i),
            added_at=datetime(2026, 11, 1, tzinfo=UTC),
            label=CLASSES[i % len(CLASSES)],
            metadata={"split": "train" if i % 5 else "test"},
        )
        for i in range(len(x_ND))
    ]
    with store.stage("embeddings") as staging:
        write_embeddings(staging.path, x_ND, items, info=EmbeddingsInfo(dimension=x_ND.shape[1], metric=Metric.COSINE))
        staging.commit()
    version = build(store, config=BuildConfig(kind="flat", query_count=10)).version
    store.activate(version)
    return version


def made_workspace(root: Path, *, count: int = 400) -> Store:
    """Makes a workspace with one active snapshot of made-up clusters."""
    store = Store.create(root)
    add_snapshot(store, made_clusters(count)[0])
    return store


@contextlib.contextmanager
def running_server(store: Store, *, config: ServeConfig | None = None) -> Iterator[str]:
    """Runs a real server in a thread and gives its address."""
    config = config or load_config(None, assignments=["listen.port=0", "listen.drain_s=0.2"])
    server, ready, box = Server(store, config), threading.Event(), dict[str, Any]()

    async def main() -> None:
        box["stop"] = asyncio.Event()
        box["loop"] = asyncio.get_running_loop()
        try:
            box["port"] = await server.start()
        finally:
            ready.set()
        await box["stop"].wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(20), "the server did not start"
    try:
        yield f"127.0.0.1:{box['port']}"
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(20)
