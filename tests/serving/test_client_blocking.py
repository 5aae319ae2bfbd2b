"""Unary calls of the blocking client over our own HTTP/2: against our server, gRPC's, and what is no server."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.http2.link import Limits
from tests.serving.conftest import config, make_vectors, running
from tests.serving.wire_client import LIMITS, NO_SERVERS, PATH, answering, serving
from vicinal.client import Client, blocking
from vicinal.client.blocking import BlockingChannel
from vicinal.client.channel import RetryPolicy
from vicinal.errors import DeadlineExceededError, ItemNotFoundError, UnavailableError
from vicinal.store import Store

ONCE = RetryPolicy(attempt_count=1)
PATIENT = Limits(message_bytes=1 << 20, streams=8)
"""Of a server that does not hang up on idle clients, however slow the machine is."""


@contextmanager
def dialled(port: int) -> Iterator[BlockingChannel]:
    channel = BlockingChannel(f"127.0.0.1:{port}")
    try:
        yield channel
    finally:
        channel.close()


def method(channel: BlockingChannel, name: str = "Say") -> Any:
    return channel.unary_unary(PATH + name, request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(call: Any, message: bytes, timeout: float = 10) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(message, timeout=timeout, metadata=())
    return caught.value


@pytest.mark.parametrize("transport", ["http2", "grpc"])
def test_calls_errors_and_large_messages_are_those_of_any_client(vector_store: Store, transport: str) -> None:
    x_QD = make_vectors(9000, seed=3)
    with running(vector_store, config(f"listen.transport={transport}")) as (_, address), Client(address) as client:
        assert len(client.batch_search(x_QD, neighbor_count=20)) == 9000
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda x_D: client.search(x_D, neighbor_count=3), x_QD[:300]))
        for x_D, one in zip(x_QD[:50], found, strict=False):
            assert one.item_ids == client.search(x_D.tolist(), neighbor_count=3).item_ids
        with pytest.raises(ItemNotFoundError, match="nobody"):
            client.search("nobody")
        assert client.get_active_snapshot().name == "snapshots/000001"


def test_a_handler_is_heard_as_by_grpc() -> None:
    with serving(PATIENT) as (_, port, _), dialled(port) as channel:
        say = method(channel)
        for message in (b"", b"quick", b"a" * 1_000_000):
            assert say(message, timeout=10, metadata=()) == message
        found = say(b"metadata", timeout=10, metadata=(("authorization", "Bearer x"),)).decode()
        assert "('authorization', 'Bearer x')" in found
        assert say(b"time", timeout=40, metadata=()) == b"40"
        error = refused(say, b"abort")
        assert error.details() == "nö, 100% not\nhere"
        assert dict(error.trailing_metadata()) == {"why-bin": b"\0\xff", "who": "me"}
        assert refused(method(channel, "Sing"), b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_reaches_the_server_and_leaves_the_connection() -> None:
    with serving(PATIENT) as (echo, port, _), dialled(port) as channel:
        say = method(channel)
        here = say(b"who", timeout=10, metadata=())
        start_s = time.monotonic()
        assert refused(say, b"wait", 0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.1 <= time.monotonic() - start_s < 5
        assert say(b"who", timeout=10, metadata=()) == here
        for _ in range(200):
            if echo.cancelled:
                break
            time.sleep(0.01)
        assert echo.cancelled == ["say"]


def test_calls_in_turn_share_a_connection_and_calls_together_have_one_each() -> None:
    with serving(PATIENT) as (_, port, _), dialled(port) as channel:
        say = method(channel)
        assert len({say(b"who", timeout=10, metadata=()) for _ in range(3)}) == 1
        with ThreadPoolExecutor(4) as pool:
            said = set(pool.map(lambda _: say(b"who", timeout=10, metadata=()), range(4)))
        assert len(said) == 4
        assert say(b"who", timeout=10, metadata=()) in said


def test_closing_cancels_what_other_threads_wait_for() -> None:
    with serving(PATIENT) as (echo, port, _), ThreadPoolExecutor(3) as pool:
        channel = BlockingChannel(f"127.0.0.1:{port}")
        say = method(channel)
        waiting = [pool.submit(refused, say, b"wait", 20) for _ in range(3)]
        time.sleep(0.2)
        channel.close()
        assert {one.result(5).code() for one in waiting} == {grpc.StatusCode.CANCELLED}
        assert refused(say, b"quick").code() is grpc.StatusCode.CANCELLED
        for _ in range(200):
            if len(echo.cancelled) == 3:
                break
            time.sleep(0.01)
        assert echo.cancelled == ["say"] * 3


def test_a_connection_that_the_server_gave_up_is_not_used_again() -> None:
    # The server asks idle clients whether they are there, and hangs up on those that are silent.
    with serving(LIMITS) as (_, port, _), dialled(port) as channel:
        say = method(channel)
        first = say(b"who", timeout=10, metadata=())
        time.sleep(LIMITS.keepalive_s + LIMITS.keepalive_wait_s + 0.5)
        assert say(b"who", timeout=10, metadata=()) != first


def test_a_server_that_comes_back_is_found_again(vector_store: Store) -> None:
    with running(vector_store, config()) as (_, address):
        client = Client(address, timeout_s=20)
        assert len(client.search("item-00001")) == 10
    with pytest.raises(UnavailableError, match="no server answers at"):
        client.search("item-00001", timeout_s=0.3)
    with running(vector_store, config(f"listen.port={address.rpartition(':')[2]}")):
        assert len(client.search("item-00001")) == 10
        client.close()


@pytest.mark.parametrize(("raw", "code"), NO_SERVERS)
def test_what_is_no_grpc_server_is_one_clear_error(raw: bytes, code: grpc.StatusCode) -> None:
    for port in answering(raw):
        with dialled(port) as channel:
            assert refused(method(channel), b"x", 3).code() is code


def test_a_silent_server_is_asked_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(blocking, "KEEPALIVE_WAIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute, dialled(mute.getsockname()[1]) as channel:
        start_s = time.monotonic()
        error = refused(method(channel), b"x", 20)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "silent" in str(error.details())
        assert time.monotonic() - start_s < 5
    # One that answers pings may take its time.
    with serving(PATIENT) as (_, port, _), dialled(port) as channel:
        start_s = time.monotonic()
        assert refused(method(channel), b"wait", 1.5).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - start_s >= 1.5


def test_nobody_there_is_unavailable_and_a_deadline_holds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"127.0.0.1:{port}", retry=ONCE) as client, pytest.raises(UnavailableError, match="no server answers"):
        client.search("item-00001")
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        Client(f"127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2, retry=ONCE) as client,
    ):
        with pytest.raises(DeadlineExceededError):
            client.search(np.zeros(16, np.float32))
        # Longer than the windows of a server that says nothing, and than what the system keeps for it.
        with pytest.raises(DeadlineExceededError):
            client.batch_search(np.zeros((40_000, 16), np.float32))


def test_a_forked_process_has_connections_of_its_own() -> None:
    with serving(PATIENT) as (_, port, _), dialled(port) as channel:
        say = method(channel)
        here = say(b"who", timeout=10, metadata=())
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, say(b"who", timeout=10, metadata=()))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            there = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        assert there
        assert there != here
        assert say(b"who", timeout=10, metadata=()) == here


def test_threads_that_come_and_go_leave_nothing_open() -> None:
    before = open_files()
    with serving(PATIENT) as (_, port, _), dialled(port) as channel:
        say = method(channel)
        for _ in range(20):
            threads = [
                threading.Thread(target=say, args=(b"quick",), kwargs={"timeout": 10, "metadata": ()})
                for _ in range(10)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        assert open_files() < before + 60
    assert open_files() <= before + 1
