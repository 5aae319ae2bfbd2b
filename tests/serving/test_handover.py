"""Connections go to the worker that has the fewest of them."""

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from typing_extensions import override

from serving.handover import Handover, Seat
from serving.http2.doors import Doors, OpenLinks


class Port:
    """A listening socket, and its clients."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def accept(self) -> socket.socket:
        self._stack.enter_context(socket.create_connection(self._server.getsockname()))
        return self._stack.enter_context(self._server.accept()[0])


@pytest.fixture
def port() -> Iterator[Port]:
    with ExitStack() as stack:
        yield Port(stack)


def seats(handover: Handover, count: int, dead: tuple[int, ...] = ()) -> list[Seat]:
    return [handover.seat(number, lambda number: number not in dead) for number in range(count)]


def taken(seat: Seat) -> list[Any]:
    found = []
    for one in seat.take():
        with one:
            found.append(one.getpeername())
    return found


def test_a_connection_is_given_to_who_has_fewest_and_arrives_whole(port: Port) -> None:
    handover = Handover(3)
    first, second, third = seats(handover, 3)
    one = port.accept()
    assert not first.give(one), "nobody has fewer than none"
    first.show(2)
    second.show(1)
    assert first.give(one)
    with next(third.take()) as there:
        assert there.getpeername() == one.getpeername()
        one.close()
        there.sendall(b"still open")
    third.show(1)
    # Now 2, 1 and 1: what one waits for counts as what it has.
    assert first.give(port.accept())
    assert first.give(port.accept())
    assert not first.give(port.accept())
    assert [len(taken(seat)) for seat in (first, second, third)] == [0, 1, 1]
    handover.close()


def test_the_dead_get_nothing_and_who_comes_after_them_what_they_left(port: Port) -> None:
    handover = Handover(2)
    first, second = seats(handover, 2)
    first.show(1)
    assert first.give(port.accept())
    second.show(9)
    alone = handover.seat(0, lambda number: number == 0)
    alone.show(9)
    assert not alone.give(port.accept())
    # It was killed, and is started again: what it had is gone, what was given is there.
    again = handover.seat(1, lambda _: True)
    first.show(1)
    assert len(taken(again)) == 1
    assert first.give(port.accept())
    assert not first.give(port.accept())
    handover.close()


def test_more_than_an_inbox_holds_stays_where_it_is(port: Port) -> None:
    handover = Handover(2)
    first, second = seats(handover, 2)
    first.show(100_000)
    given = sum(first.give(port.accept()) for _ in range(600))
    assert 0 < given < 600
    found = 0
    while more := len(taken(second)):
        found += more
    assert found == given
    assert first.give(port.accept())
    handover.close()


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open no file until it ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_a_free_file_connections_wait_and_are_taken_in_later(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        handover = Handover(1)
        arrived = asyncio.Event()

        class Greeted(asyncio.Protocol):
            @override
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transport.close()
                arrived.set()

        doors = Doors(Greeted, OpenLinks(), seat=handover.seat(0, lambda _: True), tls=None)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0)
        with socket.create_connection(listener.getsockname()):
            with no_more_files():
                doors.open(listener)
                await asyncio.sleep(0.1)
            assert not arrived.is_set()
            await asyncio.wait_for(arrived.wait(), 10)
        await doors.close()
        handover.close()

    asyncio.run(run())
    assert len([one for one in caplog.records if "cannot take a connection in" in one.message]) == 1


def test_a_connection_that_is_lost_on_its_way_is_told(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    handover = Handover(2)
    first, second = seats(handover, 2)
    first.show(1)
    assert first.give(port.accept())
    with no_more_files():
        assert not taken(second)
    assert "it may open no more files" in caplog.text
    assert first.give(port.accept()), "what was lost is not counted as its own"
    handover.close()
