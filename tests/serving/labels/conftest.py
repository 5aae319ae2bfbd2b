"""A server over made-up clusters, and a new label set for each test."""

import uuid
from collections.abc import Iterator

import pytest

from tests.serving.labelled_workspace import made_workspace, running_server
from vicinal.client import Client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    store = made_workspace(tmp_path_factory.mktemp("labels") / "workspace")
    with running_server(store) as address, Client(address) as client:
        yield client


@pytest.fixture
def name(client: Client) -> str:
    name = f"set-{uuid.uuid4().hex[:8]}"
    client.create_label_set(name)
    return name
