"""Hostile messages: refused one by one, never INTERNAL, never late, and the server answers on."""

import asyncio
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.server import Server
from tests.serving.conftest import add_image_snapshot, config
from tests.serving.hostile import BAD_CODES, attack
from vicinal.client import AsyncClient, Client
from vicinal.errors import InternalError, VicinalError
from vicinal.store import Store
from vicinal.v1 import types_pb2

COUNT = int(os.environ.get("VICINAL_HOSTILE_COUNT", "1500"))
"""Messages of a run: 200,000 for a night."""


def test_many_hostile_messages_to_every_rpc(store: Store) -> None:
    add_image_snapshot(store)
    store.activate("1")

    async def run() -> None:
        server = Server(store, config())
        port = await server.start()
        seen = await attack(f"127.0.0.1:{port}", count=COUNT, seed=1)
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            assert len(await client.search("image-00001")) == 10
        await server.stop()
        assert sum(seen.values()) == COUNT
        assert not [code.name for code in BAD_CODES if seen[code.name]]
        assert not seen["late"]
        assert seen["OK"] > 0
        assert seen["INVALID_ARGUMENT"] > COUNT // 5

    asyncio.run(run())


@settings(max_examples=max(40, COUNT // 40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), count=st.integers(-(2**31), 2**31 - 1), packed=st.binary(max_size=200))
def test_any_bytes_for_a_query_give_an_answer_or_one_clear_error(
    image_client: Client, content: bytes, count: int, packed: bytes
) -> None:
    for query in (
        types_pb2.Query(content=content),
        types_pb2.Query(vector=types_pb2.Vector(packed=packed)),
        types_pb2.Query(item_id=content.decode("latin-1")),
    ):
        try:
            image_client.search(query, neighbor_count=count)
        except InternalError:
            raise
        except VicinalError:
            continue
