"""Streams of the asyncio client over our own HTTP/2, message by message."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest

from serving.http2.link import Limits
from tests.serving.test_client_wire import dialled
from tests.serving.wire_client import PATH, serving
from vicinal.client.wire import WireChannel

PATIENT = Limits(message_bytes=1 << 20, streams=3)


async def each(messages: Iterable[bytes], *, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
        if pause_s:
            await asyncio.sleep(pause_s)


def talk(channel: WireChannel, requests: AsyncIterator[bytes], name: str = "Talk", **metadata: str) -> Any:
    method = channel.stream_stream(PATH + name, request_serializer=bytes, response_deserializer=bytes)
    return method(requests, metadata=tuple(metadata.items()))


def test_messages_of_every_size_come_back_in_order() -> None:
    wanted = [b"%d" % size + b"x" * size for size in (0, 1, 5, 100, 16_384, 16_385, 70_000, 1_000_000)] * 8
    wanted += [b"", b"last"]

    async def run(port: int) -> None:
        async with dialled(port) as channel:
            assert [reply async for reply in talk(channel, each(wanted))] == wanted
            assert [reply async for reply in talk(channel, each([]))] == []
            slow = talk(channel, each([b"a", b"b", b"c"], pause_s=0.02))
            assert [reply async for reply in slow] == [b"a", b"b", b"c"]

    with serving(PATIENT) as (_, port, _):
        asyncio.run(run(port))


def test_many_streams_and_calls_share_a_connection() -> None:
    async def run(port: int) -> None:
        async with dialled(port) as channel:

            async def one(number: int) -> list[bytes]:
                return [reply async for reply in talk(channel, each([b"%d" % number] * 50))]

            # The server takes three at once, as the first hears.
            assert await one(0) == [b"0"] * 50
            found = await asyncio.gather(*(one(number) for number in range(12)))
            assert found == [[b"%d" % number] * 50 for number in range(12)]

    with serving(PATIENT) as (_, port, _):
        asyncio.run(run(port))


def test_a_server_may_end_a_stream_before_the_client_does() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"stop"
        while True:
            await asyncio.sleep(0.01)
            yield b"unheard"

    async def run(port: int) -> None:
        async with dialled(port) as channel:
            assert [reply async for reply in talk(channel, endless())] == [b"first"]
            assert [reply async for reply in talk(channel, each([b"again"]))] == [b"again"]

    with serving(PATIENT) as (_, port, _):
        asyncio.run(run(port))


def test_a_stream_that_is_given_up_leaves_room_for_others() -> None:
    async def run(port: int) -> None:
        async with dialled(port) as channel:
            for _ in range(10):
                stream = talk(channel, each([b"one", b"slow", b"two"], pause_s=0.01))
                async for reply in stream:
                    assert reply == b"one"
                    break
                stream.cancel()
                stream.cancel()
            assert [reply async for reply in talk(channel, each([b"room"]))] == [b"room"]

    with serving(PATIENT) as (_, port, _):
        asyncio.run(run(port))


def test_what_goes_wrong_is_what_grpc_would_raise() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"fine"
        raise ValueError("out of images")

    async def run(port: int, stop: Any) -> None:
        async with dialled(port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [reply async for reply in talk(channel, each([b"x"]), name="Sing")]
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(grpc.aio.AioRpcError, match="could not be sent: out of images"):
                _ = [reply async for reply in talk(channel, broken())]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [reply async for reply in talk(channel, each([b"x" * ((1 << 20) + 1)]))]
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

            async def hold() -> None:
                async for _ in talk(channel, each([b"a"] * 1000, pause_s=0.01)):
                    await asyncio.to_thread(stop)

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hold()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    with serving(PATIENT) as (_, port, stop):
        asyncio.run(run(port, stop))


def test_nobody_there_is_unavailable() -> None:
    async def run() -> None:
        async with dialled(1) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [reply async for reply in talk(channel, each([b"x"]))]
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())
