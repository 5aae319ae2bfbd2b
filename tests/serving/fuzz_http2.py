"""Coverage-guided fuzzing of our own HTTP/2, in one process: python -m tests.serving.fuzz_http2 [libFuzzer options].

Wants ``pip install atheris`` (not a dependency). Every input is what a client sends after its greeting; whatever it
is, the connection answers or ends with a code, and no exception but the expected ones leaves it.
"""

import asyncio
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["serving.http2", "vicinal.http2", "hpack"]):
    from serving.http2.connection import Connection
    from serving.http2.server import Http2Server
    from serving.http2.turns import Turns
    from tests.serving.wire_client import LIMITS, Echo, handlers
    from vicinal.http2 import frames
    from vicinal.http2.frames import Kind


class Transport:
    """Keeps nothing of what is written."""

    def __init__(self) -> None:
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        assert data

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing is read from here."""

    resume_reading = pause_reading


def with_lengths(data: bytes) -> bytes:
    """Returns frames whose lengths are right, so that chance gets further than to the first of them."""
    fuzzed, pieces = atheris.FuzzedDataProvider(data), []
    while fuzzed.remaining_bytes():
        kind, flags = fuzzed.ConsumeIntInRange(0, 10), fuzzed.ConsumeIntInRange(0, 255)
        number = fuzzed.ConsumeIntInRange(0, 9)
        payload = fuzzed.ConsumeBytes(fuzzed.ConsumeIntInRange(0, 80))
        if kind == Kind.SETTINGS:
            payload = payload[: len(payload) // 6 * 6]
        pieces.append(frames.frame(kind, flags, number, payload))
    return b"".join(pieces)


async def talk(data: bytes) -> None:
    """Feeds one connection, and lets its calls work for a moment."""
    server = Http2Server(LIMITS, reuse_port=False)
    server.add_generic_rpc_handlers((handlers(Echo()),))
    connection = Connection(server._find, LIMITS, set(), Turns())
    transport: Any = Transport()
    connection.connection_made(transport)
    connection.data_received(frames.PREFACE + data)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks = [stream.task for stream in connection.streams.values() if stream.task is not None]
    connection.connection_lost(None)
    await asyncio.gather(*tasks, return_exceptions=True)


def one_input(data: bytes) -> None:
    """Runs one input, as it is and as frames."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(talk(data))
        loop.run_until_complete(talk(with_lengths(data)))
    finally:
        loop.close()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
