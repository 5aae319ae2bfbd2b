"""Calls that are answered without a task: one in each turn of the loop, and only those that are still wanted."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from serving.http2.messages import framed
from serving.http2.turns import Turns
from tests.serving.wire_client import LIMITS, Echo, Wire, body, serving
from vicinal.http2 import frames
from vicinal.http2.frames import ErrorCode, Kind, frame

SLEEP = b"quick sleep"
PATIENT = replace(LIMITS, keepalive_s=30.0, keepalive_wait_s=10.0)


@pytest.fixture(scope="module")
def opened() -> Iterator[tuple[Echo, int]]:
    # Calls hold the loop for longer than the others' server waits for a sign of life.
    with serving(PATIENT) as (echo, port, _):
        yield echo, port


@pytest.fixture(autouse=True)
def _forget(opened: tuple[Echo, int]) -> None:
    opened[0].quick_calls.clear()


def test_others_are_heard_between_two_calls(opened: tuple[Echo, int], wire: Wire) -> None:
    echo, port = opened
    with closing(Wire(port)) as other:
        wire.until(Kind.SETTINGS)
        other.until(Kind.SETTINGS)
        wire.send(*(wire.head(number) + body(number, SLEEP) for number in range(1, 13, 2)))
        other.send(frame(Kind.PING, 0, 0, b"are you?"))
        assert other.until(Kind.PING)[3] == b"are you?"
        assert len(echo.quick_calls) < 5
        other.send(other.head(1), body(1, b"quick other"))
        assert other.reply(1)[0] == framed(b"quick other")
        # In the order in which they came.
        assert echo.quick_calls == [SLEEP] * 6 + [b"quick other"]
        assert [wire.reply(number)[0] for number in range(1, 13, 2)] == [framed(SLEEP)] * 6


def test_a_call_whose_deadline_passes_while_it_waits_is_not_worked_on(opened: tuple[Echo, int], wire: Wire) -> None:
    held = wire.head(1) + body(1, SLEEP) + wire.head(3) + body(3, SLEEP)
    late = wire.head(5, grpc_timeout="1m") + body(5, b"quick late")
    timed = wire.head(7, grpc_timeout="10S") + body(7, b"quick timed")
    wire.send(held + late + timed)
    assert wire.reply(3)[0] == framed(SLEEP)
    assert wire.reply(5)[1]["grpc-status"] == "4"
    assert wire.reply(7)[0] == framed(b"quick timed")
    assert opened[0].quick_calls == [SLEEP, SLEEP, b"quick timed"]


def test_a_call_that_is_taken_back_while_it_waits_is_not_worked_on(opened: tuple[Echo, int], wire: Wire) -> None:
    calls = wire.head(1) + body(1, SLEEP) + wire.head(3) + body(3, b"quick gone")
    wire.send(calls + frames.reset(3, ErrorCode.CANCEL) + wire.head(5) + body(5, b"quick kept"))
    assert wire.reply(5)[0] == framed(b"quick kept")
    assert opened[0].quick_calls == [SLEEP, b"quick kept"]


def test_calls_that_are_taken_back_count_until_their_turn(opened: tuple[Echo, int], wire: Wire) -> None:
    held = wire.head(1) + body(1, SLEEP)
    taken_back = [
        wire.head(number) + body(number, b"quick gone") + frames.reset(number, ErrorCode.CANCEL)
        for number in range(3, 3 + 6 * LIMITS.streams, 2)
    ]
    wire.send(held + b"".join(taken_back))
    refused = [wire.until(Kind.RST_STREAM) for _ in range(2 * LIMITS.streams)]
    assert {payload[3] for _, _, _, payload in refused} == {ErrorCode.REFUSED_STREAM}
    assert refused[0][2] == 3 + 2 * LIMITS.streams
    wire.send(wire.head(999) + body(999, b"quick after"))
    assert wire.reply(999)[0] == framed(b"quick after")
    assert opened[0].quick_calls == [SLEEP, b"quick after"]


def test_what_cannot_be_answered_without_a_task_gets_one_in_its_turn(wire: Wire) -> None:
    wire.send(wire.head(1) + body(1, SLEEP) + wire.head(3) + body(3, b"slowly") + wire.head(5) + body(5, b"quick"))
    wire.send(wire.head(7, grpc_timeout="50m") + body(7, b"wait"))
    assert wire.reply(1)[0] == framed(SLEEP)
    said = {}
    for number in (3, 5):
        said[number] = wire.until(Kind.DATA)[3]
    assert sorted(said.values()) == sorted([framed(b"slowly"), framed(b"quick")])
    assert wire.reply(7)[1]["grpc-status"] == "4"


def test_more_than_may_wait_are_turned_away_at_once() -> None:
    with serving(PATIENT, turns=Turns(lambda: 3)) as (echo, port, _), closing(Wire(port)) as wire:
        calls = [wire.head(number) + body(number, SLEEP if number == 1 else b"quick") for number in range(1, 15, 2)]
        wire.send(b"".join(calls))
        # The coroutine of this server answers them, that of a worker says no.
        first = [wire.until(Kind.DATA)[2] for _ in range(7)]
        assert echo.turned_away == 3
        assert first[0] == 1
        assert sorted(first) == list(range(1, 15, 2))
