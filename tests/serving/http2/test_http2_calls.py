"""Our own HTTP/2 as clients of gRPC see it."""

import time
from typing import Any

import grpc
import pytest

from serving.http2.messages import framed
from serving.http2.server import Http2Server
from tests.serving.wire_client import LIMITS, PATH, Echo, Wire, body, serving
from vicinal.http2 import frames
from vicinal.http2.frames import ErrorCode


def dial(place: int | str) -> Any:
    return grpc.insecure_channel(place if isinstance(place, str) else f"127.0.0.1:{place}")


def test_calls_of_every_form_are_answered_to_a_grpc_client(opened: tuple[Echo, int]) -> None:
    with dial(opened[1]) as channel:
        for message in (b"", b"quick", b"a" * 100_000, b"quick" + b"b" * 900_000):
            assert channel.unary_unary(PATH + "Say")(message, timeout=10) == message
        assert [len(one) for one in channel.unary_stream(PATH + "Count")(b"200000 20")] == [200_000] * 20
        assert channel.stream_unary(PATH + "Add")(iter([b"x" * 500_000] * 9), timeout=10) == b"4500000"
        talk = channel.stream_stream(PATH + "Talk")
        assert list(talk(iter([b"%d" % n for n in range(500)]), timeout=10)) == [b"%d" % n for n in range(500)]
        assert list(talk(iter([b"1", b"stop", b"2"]), timeout=10)) == [b"1"]
        assert channel.unary_unary(PATH + "Say")(b"time", timeout=40) == b"40"
        assert channel.unary_unary(PATH + "Say")(b"time") == b"-1"
        sent = (("x-a", "1"), ("y-bin", b"\0\1\xff"))
        found = channel.unary_unary(PATH + "Say")(b"metadata", metadata=sent).decode()
        assert "('x-a', '1')" in found
        assert r"('y-bin', b'\x00\x01\xff')" in found
        packed = channel.unary_unary(PATH + "Say")(b"z" * 50_000, compression=grpc.Compression.Gzip)
        assert packed == b"z" * 50_000


def test_errors_reach_a_grpc_client_whole(opened: tuple[Echo, int], caplog: pytest.LogCaptureFixture) -> None:
    with dial(opened[1]) as channel:
        say = channel.unary_unary(PATH + "Say")
        with pytest.raises(grpc.RpcError) as caught:
            say(b"abort")
        error: Any = caught.value
        assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nö, 100% not\nhere")
        assert dict(error.trailing_metadata()) == {"why-bin": b"\0\xff", "who": "me"}
        for call, message, code in (
            (say, b"break", grpc.StatusCode.UNKNOWN),
            (channel.unary_unary("/test.Echo/Sing"), b"", grpc.StatusCode.UNIMPLEMENTED),
            (say, b"x" * (LIMITS.message_bytes + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=10)
            other: Any = caught.value
            assert other.code() is code
            assert "secret" not in other.details()
    assert "a secret" in caplog.text


def test_a_deadline_and_a_hang_up_cancel_the_work(opened: tuple[Echo, int], wire: Wire) -> None:
    echo, _ = opened
    echo.cancelled.clear()
    wire.send(wire.head(1, grpc_timeout="50m"), body(1, b"wait"))
    assert wire.reply(1)[1]["grpc-status"] == "4"
    wire.send(wire.head(3), body(3, b"wait"))
    time.sleep(0.1)
    wire.send(frames.reset(3, ErrorCode.CANCEL))
    wire.send(wire.head(5), body(5, b"still here"))
    assert wire.reply(5)[0] == framed(b"still here")
    # The work of the call that was taken back ends without a word.
    until = time.monotonic() + 5
    while len(echo.cancelled) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert echo.cancelled == ["say"] * 2


def test_a_server_that_stops_lets_calls_end_and_takes_no_more() -> None:
    with serving() as (_, port, stop), dial(port) as channel:
        talk = channel.stream_stream(PATH + "Talk")(iter([b"slow"]))
        assert channel.unary_unary(PATH + "Say")(b"x", timeout=5) == b"x"
        stop(5.0)
        assert list(talk) == [b"slow"]
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(PATH + "Say")(b"x", timeout=0.5)
    with serving() as (echo, port, stop), dial(port) as channel:
        call = channel.unary_unary(PATH + "Say").future(b"wait", timeout=20)
        time.sleep(0.2)
        stop(0.05)
        error: Any = call.exception()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert echo.cancelled == ["say"]


def test_sockets_in_the_file_system_and_ports_that_are_taken(tmp_path: Any) -> None:
    path = tmp_path / "vicinal.sock"
    for _ in range(2):
        with serving(address=f"unix:{path}"), dial(f"unix:{path}") as channel:
            assert channel.unary_unary(PATH + "Say")(b"quick", timeout=5) == b"quick"
    with serving(address="localhost:0") as (_, port, _), dial(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary(PATH + "Say")(b"quick", timeout=5) == b"quick"
    with serving() as (_, port, _), pytest.raises(RuntimeError, match="cannot listen"):
        Http2Server(LIMITS, reuse_port=False).add_port(f"127.0.0.1:{port}")
