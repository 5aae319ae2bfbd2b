"""Unary calls of the asyncio client over our own HTTP/2: against our server, gRPC's, and what is no server."""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from serving.http2.link import Limits
from tests.serving.conftest import config, make_vectors, running
from tests.serving.wire_client import NO_SERVERS, PATH, answering, serving
from vicinal.client import AsyncClient
from vicinal.client.channel import RetryPolicy, is_plain_address
from vicinal.client.exchange import LostCallError
from vicinal.client.wire import WireChannel
from vicinal.client.wire_link import WireLink
from vicinal.errors import DeadlineExceededError, InvalidArgumentError, ItemNotFoundError, UnavailableError
from vicinal.store import Store

ONCE = RetryPolicy(attempt_count=1)


@asynccontextmanager
async def dialled(place: int | str) -> AsyncIterator[WireChannel]:
    channel = WireChannel(place if isinstance(place, str) else f"127.0.0.1:{place}")
    try:
        yield channel
    finally:
        await channel.close()


def method(channel: WireChannel, name: str = "Say") -> Any:
    return channel.unary_unary(PATH + name, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)


@pytest.fixture(params=["http2", "grpc"])
def address(request: pytest.FixtureRequest, vector_store: Store) -> Iterator[str]:
    with running(vector_store, config(f"listen.transport={request.param}")) as (_, address):
        yield address


def test_calls_errors_and_large_messages_are_those_of_any_client(address: str) -> None:
    async def run() -> None:
        async with AsyncClient(address) as client:
            x_QD = make_vectors(9000, seed=3)
            assert len(await client.batch_search(x_QD, neighbor_count=20)) == 9000
            found = await asyncio.gather(*(client.search(x_D, neighbor_count=3) for x_D in x_QD[:300]))
            assert all(len(one) == 3 for one in found)
            with pytest.raises(ItemNotFoundError, match="nobody"):
                await client.search("nobody")
            assert (await client.get_active_snapshot()).name == "snapshots/000001"

    asyncio.run(run())


def test_a_handler_is_heard_as_by_grpc() -> None:
    async def run(port: int) -> None:
        async with dialled(port) as channel:
            say = method(channel)
            for message in (b"", b"quick", b"a" * 1_000_000):
                assert await say(message, timeout=10, metadata=()) == message
            found = (await say(b"metadata", timeout=10, metadata=(("authorization", "Bearer x"),))).decode()
            assert "('authorization', 'Bearer x')" in found
            assert await say(b"time", timeout=40, metadata=()) == b"40"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(b"abort", timeout=10, metadata=())
            assert caught.value.details() == "nö, 100% not\nhere"
            assert dict(caught.value.trailing_metadata()) == {"why-bin": b"\0\xff", "who": "me"}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, "Sing")(b"", timeout=10, metadata=())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    with serving() as (_, port, _):
        asyncio.run(run(port))


def test_deadlines_and_cancellation_reach_the_server() -> None:
    async def run(port: int, cancelled: list[str]) -> None:
        async with dialled(port) as channel:
            say = method(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await say(b"wait", timeout=0.05, metadata=())
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            task = asyncio.create_task(say(b"wait", timeout=20, metadata=()))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await say(b"still here", timeout=5, metadata=()) == b"still here"
            for _ in range(200):
                if len(cancelled) == 2:
                    break
                await asyncio.sleep(0.01)
            assert cancelled == ["say"] * 2

    with serving() as (echo, port, _):
        asyncio.run(run(port, echo.cancelled))


def test_more_calls_than_the_server_takes_at_once_wait_their_turn() -> None:
    async def run(port: int) -> None:
        async with dialled(port) as channel:
            say = method(channel)
            # On a fresh connection: what the server takes is not known when the first is sent.
            for _ in range(2):
                said = await asyncio.gather(*(say(b"who", timeout=10, metadata=()) for _ in range(30)))
                assert len(said) == 30
                assert len(set(said)) == 1

    with serving(Limits(message_bytes=1 << 20, streams=3)) as (_, port, _):
        asyncio.run(run(port))


def test_calls_together_take_several_connections_and_calls_in_turn_the_first() -> None:
    async def run(port: int) -> None:
        channel = WireChannel(f"127.0.0.1:{port}", connections=3)
        say = method(channel)

        async def together(count: int) -> Counter[bytes]:
            return Counter(await asyncio.gather(*(say(b"who", timeout=10, metadata=()) for _ in range(count))))

        try:
            one = await together(1)
            assert await together(1) == one
            assert await together(2) > one
            assert sorted((await together(24)).values()) == [8, 8, 8]
            waiting = [asyncio.create_task(say(b"wait", timeout=20, metadata=())) for _ in range(6)]
            await asyncio.sleep(0.1)
        finally:
            await channel.close()
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, grpc.aio.AioRpcError)
            assert ended.code() is grpc.StatusCode.CANCELLED

    with serving() as (_, port, _):
        asyncio.run(run(port))


@pytest.mark.parametrize("count", [0, -1, 65])
def test_a_number_of_connections_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"connections is {count}, wanted 1 to 64"):
        AsyncClient("127.0.0.1:1", connections=count)


def test_a_server_that_comes_back_is_found_again(vector_store: Store) -> None:
    async def ask(address: str, again: threading.Event, gone: threading.Event) -> None:
        async with AsyncClient(address, timeout_s=20) as client:
            assert len(await client.search("item-00001")) == 10
            gone.set()
            await asyncio.to_thread(again.wait, 10)
            assert len(await client.search("item-00001")) == 10

    gone, again, failed = threading.Event(), threading.Event(), list[BaseException]()
    with running(vector_store, config()) as (_, address):
        port = address.rpartition(":")[2]

        def work() -> None:
            try:
                asyncio.run(ask(address, again, gone))
            except BaseException as error:  # noqa: BLE001 - shown below
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        assert gone.wait(10)
    with running(vector_store, config(f"listen.port={port}")):
        again.set()
        thread.join(20)
    assert not failed


@pytest.mark.parametrize(("raw", "code"), NO_SERVERS)
def test_what_is_no_grpc_server_is_one_clear_error(raw: bytes, code: grpc.StatusCode) -> None:
    async def run(port: int) -> None:
        async with dialled(port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel)(b"x", timeout=3, metadata=())
            assert caught.value.code() is code

    for port in answering(raw):
        asyncio.run(run(port))


def test_calls_on_a_connection_that_breaks_meanwhile_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            _, link = await asyncio.get_running_loop().create_connection(WireLink, *listener.getsockname())
            there, _ = listener.accept()
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            there.close()
            number, exchange = link.open(b"", list[bytes]().append)
            for _ in range(20):
                link.push(number, b"x", last=False)
            with pytest.raises(LostCallError, match="the connection was lost") as caught:
                await exchange.done
            assert caught.value.as_grpc().code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())
    assert not caplog.records


def test_nobody_there_is_unavailable_and_a_deadline_holds() -> None:
    async def run(port: int) -> None:
        async with AsyncClient(f"127.0.0.1:{port}", retry=ONCE) as client:
            with pytest.raises(UnavailableError, match="no server answers at"):
                await client.search("item-00001")
        with socket.create_server(("127.0.0.1", 0)) as mute:
            silent = f"127.0.0.1:{mute.getsockname()[1]}"
            async with AsyncClient(silent, timeout_s=0.2, retry=ONCE) as client:
                with pytest.raises(DeadlineExceededError):
                    await client.search(np.zeros(16, np.float32))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    asyncio.run(run(port))


def test_addresses_of_other_forms_and_proxies_are_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for plain in ("127.0.0.1:50051", "localhost:1", "[::1]:50051", "search.example:50051"):
        assert is_plain_address(plain)
    for other in ("unix:/tmp/x", "dns:///a:1", "localhost", "::1:50051", "ipv4:1.2.3.4:5"):
        assert not is_plain_address(other)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert not is_plain_address("search.example:50051")
