"""Real servers on loopback over small workspaces made of vectors and of images."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.build import BuildConfig, build
from serving.config import ServeConfig, load_config
from serving.server import Server
from tests.serving.images import make_png
from vicinal.client import Client
from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.encoder import Encoder, save
from vicinal.items import Item
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import F32Array, Metric

DIMENSION = 16


def make_vectors(count: int, *, seed: int = 0, dimension: int = DIMENSION) -> F32Array:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def make_items(count: int, *, prefix: str = "item") -> list[Item]:
    return [
        Item(
            item_id=f"{prefix}-{number:05d}",
            digest=f"{number:064x}",
            source="made",
            path=f"{prefix}-{number:05d}.png",
            added_at=datetime(2026, 11, 1, tzinfo=UTC),
            metadata={"price": number, "name": f"n{number}"},
        )
        for number in range(count)
    ]


def add_snapshot(
    store: Store,
    x_ND: F32Array,
    *,
    metric: Metric = Metric.L2,
    kind: str = "flat",
    items: list[Item] | None = None,
    encoder: str | None = None,
    fingerprint: str | None = None,
) -> str:
    """Writes embeddings and builds a snapshot of them; returns ``snapshots/000001``."""
    info = EmbeddingsInfo(dimension=x_ND.shape[1], metric=metric, encoder=encoder, fingerprint=fingerprint)
    with store.stage("embeddings") as staging:
        write_embeddings(staging.path, x_ND, items or make_items(len(x_ND)), info=info)
        version = staging.commit()
    report = build(store, embeddings=version, config=BuildConfig(kind=kind, query_count=20))
    return f"snapshots/{report.version}"


def add_image_snapshot(store: Store, *, count: int = 40, first: int = 0) -> str:
    """Embeds generated images with a pixels encoder and builds a snapshot of them."""
    preprocessing = Preprocessing(channels=3, height=8, width=8)
    with store.stage("encoders") as staging:
        architecture = {"name": "pixels", "channels": 3, "image_size": 8}
        model = create("pixels", channels=3, image_size=8)
        save(
            staging.path,
            model=model,
            architecture=architecture,
            preprocessing=preprocessing,
            metric=Metric.COSINE,
            metadata={},
        )
        version = staging.commit()
    encoder = Encoder.load(store.path("encoders", version))
    x_ND, errors = encoder.embed_contents([make_png(first + number) for number in range(count)])
    assert not any(errors)
    return add_snapshot(
        store,
        x_ND,
        metric=Metric.COSINE,
        items=make_items(count, prefix="image"),
        encoder=version,
        fingerprint=encoder.fingerprint,
    )


@contextmanager
def running(store: Store, config: ServeConfig, **options: Any) -> Iterator[tuple[Server, str]]:
    """Runs a server in a thread of its own; gives it and its address."""
    tls = options.pop("tls", None)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Server, int]:
        server = Server(store, config, **options)
        return server, await server.start(tls=tls)

    try:
        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def config(*assignments: str) -> ServeConfig:
    return load_config(None, assignments=["listen.port=0", "listen.swap_poll_s=0.02", "listen.drain_s=2", *assignments])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "workspace")


@pytest.fixture(scope="session")
def vector_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """500 vectors under L2, active; tests that change the alias make their own."""
    store = Store.create(tmp_path_factory.mktemp("vectors") / "workspace")
    add_snapshot(store, make_vectors(500))
    store.activate("000001")
    return store


@pytest.fixture(scope="session")
def vector_server(vector_store: Store) -> Iterator[str]:
    with running(vector_store, config()) as (_, address):
        yield address


@pytest.fixture(scope="session")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 images with a pixels encoder under cosine, active."""
    store = Store.create(tmp_path_factory.mktemp("images") / "workspace")
    add_image_snapshot(store)
    store.activate("000001")
    return store


@pytest.fixture(scope="session")
def image_server(image_store: Store) -> Iterator[str]:
    with running(image_store, config()) as (_, address):
        yield address


@pytest.fixture
def client(vector_server: str) -> Iterator[Client]:
    with Client(vector_server) as client:
        yield client


@pytest.fixture
def image_client(image_server: str) -> Iterator[Client]:
    with Client(image_server) as client:
        yield client


Running = Callable[..., Any]
