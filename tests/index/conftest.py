"""A workspace, and ways to put vectors, images and encoders into it; a Milvus server for what needs one."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.build import BuildConfig, build
from index.embed import embed
from index.engines.milvus_place import URI_VARIABLE
from index.publish import publish
from tests.index.made_images import put_encoder, write_images
from tests.index.made_vectors import AddEmbeddings, put_embeddings
from tests.index.milvus_server import lite_command, lite_server
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


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_images(folder, range(60))
    return folder


@pytest.fixture
def served(store: Store, corpus: Path) -> Store:
    put_encoder(store)
    embed(store, [str(corpus)])
    build(store, config=BuildConfig(kind="hnsw", query_count=20))
    publish(store)
    return store


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a milvus-lite server, or of the one that is named; builds and searches of kind milvus use it."""
    given = os.environ.get("VICINAL_TEST_MILVUS_URI")
    if given:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(URI_VARIABLE, given)
            yield given
        return
    command = lite_command()
    if command is None or importlib.util.find_spec("pymilvus") is None:
        pytest.skip("needs pymilvus, and milvus-lite in an environment of its own: make .venv-milvus")
    with pytest.MonkeyPatch.context() as patch, lite_server(command, tmp_path_factory.mktemp("milvus")) as uri:
        patch.setenv(URI_VARIABLE, uri)
        yield uri


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of index, by indirect parameter, with the server that it needs."""
    name: str = request.param
    if name == "milvus":
        request.getfixturevalue("milvus_uri")
    return name
