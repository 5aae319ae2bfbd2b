"""Our own HTTP/2 frame by frame: what no client of gRPC sends by itself."""

import gzip
import struct
from contextlib import closing

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from hpack import Encoder

from serving.http2.heads import HeadReader
from serving.http2.link import Limits
from serving.http2.messages import framed
from tests.serving.wire_client import LIMITS, PATH, Echo, Wire, body, serving
from vicinal.http2 import frames
from vicinal.http2.frames import ErrorCode, Kind, frame

LONG = [frame(Kind.CONTINUATION, 0, 1, b"x" * 16_000)] * 5


def test_frames_that_a_request_may_be_cut_into(wire: Wire) -> None:
    block = wire.head(1)[9:]
    wire.send(frame(Kind.HEADERS, 0, 1, block[:5]), frame(Kind.CONTINUATION, 0, 1, block[5:9]))
    wire.send(frame(Kind.CONTINUATION, frames.END_HEADERS, 1, block[9:]))
    for byte in framed(b"in pieces"):
        wire.send(frame(Kind.DATA, 0, 1, bytes((byte,))))
    wire.send(frame(Kind.DATA, frames.END_STREAM, 1))
    assert wire.reply(1)[0] == framed(b"in pieces")
    padded = frame(Kind.DATA, frames.PADDED | frames.END_STREAM, 3, b"\x04" + framed(b"padded") + b"\0" * 4)
    flags = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
    wire.send(frame(Kind.HEADERS, flags, 3, b"\x02" + b"\0\0\0\0\x10" + wire.head(3)[9:] + b"\0\0"), padded)
    assert wire.reply(3)[0] == framed(b"padded")
    # The same as one byte after the other, behind a frame of an unknown kind and one of priority.
    everything = (
        frame(0xBE, 7, 0, b"?") + frame(Kind.PRIORITY, 0, 5, b"\0" * 5) + wire.head(5) + body(5, b"quick bytes")
    )
    for byte in everything:
        wire.send(bytes((byte,)))
    assert wire.reply(5)[0] == framed(b"quick bytes")
    wire.send(wire.head(7), body(7, b"trailed", flags=0))
    wire.send(frame(Kind.HEADERS, frames.END_HEADERS | frames.END_STREAM, 7, wire.encoder.encode([("x", "y")])))
    assert wire.reply(7)[0] == framed(b"trailed")


def test_windows_hold_replies_back_and_let_them_go(wire: Wire) -> None:
    wire.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 10}))
    for number, message in ((1, b"quick " + b"q" * 100), (3, b"s" * 106)):
        wire.send(wire.head(number), body(number, message))
        assert len(wire.until(Kind.DATA, number)[3]) == 10
        wire.send(frames.window_update(number, 20))
        assert len(wire.until(Kind.DATA, number)[3]) == 20
    wire.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1000}))
    for number in (1, 3):
        assert len(wire.until(Kind.DATA, number)[3]) == 111 - 30
    wire.send(wire.head(5, "Count"), body(5, b"60000 3"))
    assert wire.rests(0.2)
    wire.send(frames.window_update(0, 1 << 20), frames.window_update(5, 1 << 20))
    assert len(wire.reply(5)[0]) + 1000 >= 2 * 60_000


def test_a_stream_is_read_no_faster_than_its_handler_works() -> None:
    limits = Limits(message_bytes=1 << 20, streams=8, stream_window=1 << 18)
    with serving(limits) as (echo, port, _), closing(Wire(port)) as wire:
        wire.send(wire.head(1, "Talk"), frame(Kind.DATA, 0, 1, framed(b"slow")))
        chunk = framed(b"x" * 16_000)
        # Far beyond the window: the server says so and hangs up.
        wire.send_anyway(frame(Kind.DATA, 0, 1, chunk) for _ in range(200))
        assert wire.gone() in {ErrorCode.FLOW_CONTROL_ERROR, None}
        assert echo.read_count < 100


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([frame(Kind.DATA, 0, 9, b"x")], ErrorCode.PROTOCOL_ERROR),
        ([frame(Kind.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff")], ErrorCode.COMPRESSION_ERROR),
        ([frame(Kind.HEADERS, frames.END_HEADERS, 2, b"\x82")], ErrorCode.PROTOCOL_ERROR),
        ([frame(Kind.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\xf0\x82")], ErrorCode.PROTOCOL_ERROR),
        ([frame(Kind.HEADERS, frames.PADDED | frames.END_HEADERS, 1)], ErrorCode.FRAME_SIZE_ERROR),
        ([frame(Kind.HEADERS, 0, 1, b"\x82"), frame(Kind.PING, 0, 0, b"12345678")], ErrorCode.PROTOCOL_ERROR),
        ([frame(Kind.CONTINUATION, 0, 1, b"\x82")], ErrorCode.PROTOCOL_ERROR),
        ([frame(Kind.PING, 0, 0, b"1234")], ErrorCode.FRAME_SIZE_ERROR),
        ([frame(Kind.SETTINGS, 0, 0, b"12345")], ErrorCode.FRAME_SIZE_ERROR),
        ([frames.settings({4: 2**31})], ErrorCode.FLOW_CONTROL_ERROR),
        ([frames.window_update(0, 0)], ErrorCode.PROTOCOL_ERROR),
        ([frames.window_update(0, 2**31 - 1)], ErrorCode.FLOW_CONTROL_ERROR),
        ([frame(Kind.PUSH_PROMISE, 0, 1, b"\0" * 4)], ErrorCode.PROTOCOL_ERROR),
        ([struct.pack(">I", 0xFFFFFF00)[:3] + b"\0" * 6], ErrorCode.FRAME_SIZE_ERROR),
        (
            [frame(Kind.HEADERS, 0, 1), *LONG],
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        ([frame(Kind.PING, 0, 0, b"12345678")] * 10_100, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_with_its_code(
    opened: tuple[Echo, int], pieces: list[bytes], code: ErrorCode
) -> None:
    with closing(Wire(opened[1])) as wire:
        wire.send(*pieces)
        assert wire.gone() is code
    with closing(Wire(opened[1])) as other:
        other.send(other.head(1), body(1, b"others go on"))
        assert other.reply(1)[0] == framed(b"others go on")


def test_a_connection_that_lives_long_may_send_many_small_frames(
    opened: tuple[Echo, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.http2.link._IDLE_S", 0.0)
    with closing(Wire(opened[1])) as wire:
        wire.send(*[frames.window_update(0, 1)] * 25_000)
        wire.send(wire.head(1), body(1, b"quick after all"))
        assert wire.reply(1)[0] == framed(b"quick after all")


def test_calls_taken_back_at_once_end_the_connection(opened: tuple[Echo, int]) -> None:
    with closing(Wire(opened[1])) as wire:
        wire.send_anyway(wire.head(n) + frames.reset(n, ErrorCode.CANCEL) for n in range(1, 24_000, 2))
        assert wire.gone() in {ErrorCode.ENHANCE_YOUR_CALM, None}


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0" * 40])
def test_other_protocols_are_turned_away(opened: tuple[Echo, int], greeting: bytes) -> None:
    with closing(Wire(opened[1], greet=False)) as wire:
        wire.send(greeting)
        assert wire.gone() is ErrorCode.PROTOCOL_ERROR


def test_what_is_no_call_of_grpc_hears_so_in_http(wire: Wire) -> None:
    for number, more, status in ((1, {":method": "GET"}, "405"), (3, {"content-type": "text/html"}, "415")):
        fields = {":method": "POST", ":path": PATH + "Say", "content-type": "application/grpc", **more}
        wire.send(frame(Kind.HEADERS, frames.END_HEADERS, number, wire.encoder.encode(fields.items())))
        assert wire.reply(number)[1][":status"] == status


def test_messages_that_are_none_are_refused(wire: Wire) -> None:
    bomb = gzip.compress(b"\0" * (8 << 20))
    cases = [
        ("", b"", "3"),
        ("", framed(b"one") + framed(b"two"), "3"),
        ("", framed(b"cut off")[:-2], "3"),
        ("gzip", b"\1" + len(bomb).to_bytes(4, "big") + bomb, "8"),
        ("gzip", b"\1\0\0\0\4junk", "3"),
        ("gzip", b"\1" + (len(bomb) - 9).to_bytes(4, "big") + bomb[:-9], "8"),
        ("snappy", b"\1\0\0\0\4junk", "12"),
        ("", b"\1\0\0\0\4junk", "12"),
    ]
    for place, (encoding, data, status) in enumerate(cases):
        number = 2 * place + 1
        wire.send(wire.head(number, grpc_encoding=encoding) if encoding else wire.head(number))
        for start in range(0, max(1, len(data)), 10_000):
            last = start + 10_000 >= len(data)
            wire.send(frame(Kind.DATA, frames.END_STREAM * last, number, data[start : start + 10_000]))
        assert wire.reply(number)[1]["grpc-status"] == status, cases[place]


@pytest.mark.parametrize("method", ["Parse", "ParseEach"])
def test_bytes_that_are_not_the_message_of_a_call_are_its_callers_fault(
    wire: Wire, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    good = BytesValue(value=b"good").SerializeToString()
    for number, data, status in ((1, framed(good), "0"), (3, framed(b"\xff\xff"), "3"), (5, framed(good), "0")):
        wire.send(wire.head(number, method), frame(Kind.DATA, frames.END_STREAM, number, data))
        said, trailers = wire.reply(number)
        assert trailers["grpc-status"] == status
        assert said == (data if status == "0" else b"")
    assert not caplog.records


def test_too_many_calls_at_once_are_refused_for_another_try(wire: Wire) -> None:
    numbers = range(1, 2 * LIMITS.streams + 3, 2)
    wire.send(*(wire.head(number) for number in numbers))
    kind, _, number, payload = wire.until(Kind.RST_STREAM)
    assert (kind, number, payload[3]) == (Kind.RST_STREAM, numbers[-1], ErrorCode.REFUSED_STREAM)


def test_a_silent_end_is_asked_and_then_let_go(opened: tuple[Echo, int]) -> None:
    with closing(Wire(opened[1])) as wire:
        assert wire.until(Kind.PING)[3] == b"vicinal?"
        wire.send(frame(Kind.PING, frames.ACK, 0, b"vicinal?"))
        wire.until(Kind.PING)
        assert wire.gone() is None


def test_headers_are_remembered_only_while_they_mean_the_same() -> None:
    encoder, reader = Encoder(), HeadReader()
    first = encoder.encode([(":method", "POST"), (":path", "/a/B"), ("content-type", "application/grpc"), ("x", "1")])
    again = encoder.encode([(":method", "POST"), (":path", "/a/B"), ("content-type", "application/grpc"), ("x", "1")])
    assert len(again) == 4
    assert reader.read(first).metadata == reader.read(again).metadata == (("x", "1"),)
    assert reader.read(again) is reader.read(again)
    # A new entry moves the others: the same bytes now name other fields.
    assert reader.read(encoder.encode([(":method", "POST"), ("y", "2")])).metadata == (("y", "2"),)
    assert reader.read(again).metadata != (("x", "1"),)
    timed = encoder.encode([("grpc-timeout", "20m")])
    assert reader.read(timed).timeout_s == pytest.approx(0.02)
    for wrong in ("", "m", "123456789S", "-5S", "5x", "1.5S"):
        assert HeadReader().read(Encoder().encode([("grpc-timeout", wrong)])).timeout_s is None
