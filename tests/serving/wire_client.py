"""A server of our own HTTP/2 with handlers of every form, and a client that sends what it is told."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue
from hpack import Decoder, Encoder

from serving.http2.link import Limits
from serving.http2.messages import framed
from serving.http2.server import Http2Server
from serving.http2.turns import Turns
from vicinal.http2 import frames
from vicinal.http2.frames import ErrorCode, Kind, frame

PATH = "/test.Echo/"
HELD_S = 0.1
LIMITS = Limits(message_bytes=1 << 20, streams=8, keepalive_s=0.3, keepalive_wait_s=0.2)


class Echo:
    """Handlers of every form; remembers what was cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.read_count = 0
        self.quick_calls: list[bytes] = []
        self.turned_away = 0

    def quick(self, raw: bytes) -> bytes | None:
        """Answers without a task; ``quick sleep`` holds everything up."""
        if not raw.startswith(b"quick"):
            return None
        self.quick_calls.append(raw)
        if raw.startswith(b"quick sleep"):
            time.sleep(HELD_S)
        return raw

    async def say(self, raw: bytes, context: Any) -> bytes:
        self.turned_away += context.turned_away
        if raw == b"abort":
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "nö, 100% not\nhere", (("why-bin", b"\0\xff"), ("who", "me"))
            )
        if raw == b"break":
            raise ValueError("a secret")
        if raw == b"wait":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled.append("say")
                raise
        if raw == b"metadata":
            assert context.peer().startswith("ipv4:127.0.0.1:")
            assert dict(context.auth_context()) == {}
            return repr(sorted(context.invocation_metadata())).encode()
        if raw == b"who":
            await asyncio.sleep(0.1)
            return str(context.peer()).encode()
        if raw == b"time":
            return b"%d" % round(context.time_remaining() or -1)
        return raw

    async def parse(self, message: BytesValue, context: Any) -> BytesValue:
        del context
        return message

    async def count(self, raw: bytes, context: Any) -> AsyncIterator[bytes]:
        del context
        size, times, *_ = *(int(word) for word in raw.split() if word.isdigit()), 1, 1
        for number in range(min(times, 100)):
            self.read_count = number + 1
            yield b"x" * min(size, 1 << 20)

    async def add(self, raws: AsyncIterator[bytes], context: Any) -> bytes:
        del context
        return b"%d" % sum([len(raw) async for raw in raws])

    async def talk(self, raws: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        del context
        async for raw in raws:
            if raw == b"stop":
                return
            if raw == b"slow":
                await asyncio.sleep(0.5)
            self.read_count += 1
            yield raw


def handlers(echo: Echo) -> grpc.GenericRpcHandler:
    async def at_once(raw: bytes, context: Any) -> bytes:
        return await echo.say(raw, context)

    at_once.__dict__["at_once"] = lambda raw, _: echo.quick(raw)
    return grpc.method_handlers_generic_handler(
        "test.Echo",
        {
            "Say": grpc.unary_unary_rpc_method_handler(at_once),
            "Count": grpc.unary_stream_rpc_method_handler(echo.count),
            "Add": grpc.stream_unary_rpc_method_handler(echo.add),
            "Talk": grpc.stream_stream_rpc_method_handler(echo.talk),
            "Parse": grpc.unary_unary_rpc_method_handler(
                echo.parse, request_deserializer=BytesValue.FromString, response_serializer=BytesValue.SerializeToString
            ),
            "ParseEach": grpc.stream_stream_rpc_method_handler(
                echo.talk, request_deserializer=BytesValue.FromString, response_serializer=BytesValue.SerializeToString
            ),
        },
    )


@contextmanager
def serving(
    limits: Limits = LIMITS, address: str = "127.0.0.1:0", turns: Turns | None = None
) -> Iterator[tuple[Echo, int, Any]]:
    echo, loop = Echo(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> tuple[Http2Server, int]:
        server = Http2Server(limits, reuse_port=False, turns=turns)
        server.add_generic_rpc_handlers((handlers(echo),))
        port = server.add_port(address)
        await server.start()
        return server, port

    server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)

    def stop(grace: float = 0.0) -> None:
        asyncio.run_coroutine_threadsafe(server.stop(grace), loop).result(10)

    try:
        yield echo, port, stop
    finally:
        stop()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Wire:
    """A client that sends what it is told."""

    def __init__(self, port: int, *, greet: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.encoder, self.decoder, self.rest = Encoder(), Decoder(), b""
        if greet:
            self.socket.sendall(frames.PREFACE + frames.settings({}))

    def close(self) -> None:
        self.socket.close()

    def head(self, number: int, method: str = "Say", *, flags: int = frames.END_HEADERS, **more: str) -> bytes:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": PATH + method,
            ":authority": "here",
            "te": "trailers",
            "content-type": "application/grpc",
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        return frame(Kind.HEADERS, flags, number, self.encoder.encode(fields.items()))

    def send(self, *pieces: bytes) -> None:
        self.socket.sendall(b"".join(pieces))

    def read(self) -> tuple[int, int, int, bytes]:
        while len(self.rest) < 9 or len(self.rest) < 9 + int.from_bytes(self.rest[:3], "big"):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError
            self.rest += data
        size = int.from_bytes(self.rest[:3], "big")
        kind, flags, number = self.rest[3], self.rest[4], int.from_bytes(self.rest[5:9], "big")
        payload, self.rest = self.rest[9 : 9 + size], self.rest[9 + size :]
        return kind, flags, number, payload

    def until(self, wanted: int, number: int | None = None) -> tuple[int, int, int, bytes]:
        while True:
            found = self.read()
            if found[0] == Kind.HEADERS and (found[0] != wanted or found[2] != (number or found[2])):
                self.decoder.decode(found[3])
            if found[0] == wanted and number in (None, found[2]):
                return found

    def reply(self, number: int) -> tuple[bytes, dict[str, str]]:
        """Returns the data of a call, and its trailers."""
        data, fields = b"", dict[str, str]()
        while True:
            kind, flags, where, payload = self.read()
            if kind == Kind.HEADERS:
                found = {str(name): str(value) for name, value in self.decoder.decode(payload)}
                fields.update(found if where == number else {})
            elif kind == Kind.DATA and where == number:
                data += payload
            if where == number and (kind == Kind.RST_STREAM or flags & frames.END_STREAM):
                return data, fields

    def gone(self) -> ErrorCode | None:
        """Returns the code with which the server says good-bye, None where it hung up without."""
        try:
            return ErrorCode(int.from_bytes(self.until(Kind.GOAWAY)[3][4:8], "big"))
        except ConnectionError:
            return None

    def rests(self, seconds: float) -> bool:
        """Returns whether the server falls silent for so long."""
        self.socket.settimeout(seconds)
        try:
            while True:
                self.read()
        except TimeoutError:
            self.socket.settimeout(5)
            return True

    def send_anyway(self, pieces: Iterable[bytes]) -> None:
        """Sends until the server hangs up."""
        try:
            for piece in pieces:
                self.send(piece)
        except OSError:
            return


def body(number: int, message: bytes, *, flags: int = frames.END_STREAM) -> bytes:
    return frame(Kind.DATA, flags, number, framed(message))


def answering(raw: bytes) -> Iterator[int]:
    """Accepts one connection after the other and answers each with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def accept() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    request = b""
                    while PATH.encode() not in request:
                        request += connection.recv(65_536)
                    connection.sendall(raw)
                    threading.Timer(0.3, connection.close).start()
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


SETTINGS = frames.settings({})
NO_SERVERS = [
    (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", grpc.StatusCode.UNAVAILABLE),
    (b"", grpc.StatusCode.UNAVAILABLE),
    (SETTINGS + frames.go_away(0, ErrorCode.NO_ERROR, "bye"), grpc.StatusCode.UNAVAILABLE),
    (SETTINGS + frames.reset(1, ErrorCode.REFUSED_STREAM), grpc.StatusCode.UNAVAILABLE),
    (SETTINGS + frames.reset(1, ErrorCode.INTERNAL_ERROR), grpc.StatusCode.INTERNAL),
    (
        SETTINGS + frame(Kind.RST_STREAM, 0, 1, (13).to_bytes(4, "big")),
        grpc.StatusCode.INTERNAL,
    ),  # HTTP/1.1
    (SETTINGS + frame(Kind.HEADERS, 5, 1, b"\xff\xff\xff\xff\xff"), grpc.StatusCode.INTERNAL),
    (SETTINGS + frame(Kind.HEADERS, 5, 1, b"\x8d"), grpc.StatusCode.UNIMPLEMENTED),  # 404
    (SETTINGS + frame(Kind.HEADERS, 4, 1, b"\x88") + frame(Kind.DATA, 1, 1, b"x"), grpc.StatusCode.UNKNOWN),
]
"""What answers and is no server of gRPC, and the code that its caller gets."""
