"""A server that echoes, and a connection to it that sends any bytes."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.serving.wire_client import Echo, Wire, serving


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Echo, int]]:
    with serving() as (echo, port, _):
        yield echo, port


@pytest.fixture
def wire(opened: tuple[Echo, int]) -> Iterator[Wire]:
    with closing(Wire(opened[1])) as wire:
        yield wire
