"""Calls and streams of the asyncio client on our own HTTP/2; docs/adr/0007-own-http2.md says why.

What is called here raises what gRPC's client would: ``grpc.aio.AioRpcError``. Addresses of other forms, and TLS with
the authorities of the machine, stay gRPC's.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from vicinal.client.exchange import LostCallError, call_error, framed, reply_of, request_head
from vicinal.client.place import Place
from vicinal.client.wire_link import WireLink
from vicinal.client.wire_slot import WireSlot
from vicinal.client.wire_stream import WireStream


class WireChannel:
    """Connects when it is first called, and again after the connection was lost.

    Args:
        address: ``HOST:PORT``.
        connections: at most; a call takes the one with the fewest calls in progress, the first of equals.
        tls: what a handshake takes; None is plain text.
        server_name: expected in the server's certificate; empty for the host.
    """

    def __init__(
        self, address: str, *, connections: int = 1, tls: ssl.SSLContext | None = None, server_name: str = ""
    ) -> None:
        self._place = Place.of(address, tls, server_name)
        self._slots = [WireSlot(self._place) for _ in range(connections)]

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what calls an RPC; the shape of ``grpc.aio.Channel.unary_unary``."""

        async def call(request: Any, *, timeout: float, metadata: tuple[tuple[str, str], ...]) -> Any:
            head = request_head(self._place.address, method, timeout, metadata, scheme=self._place.scheme)
            body = framed(request_serializer(request))
            slot = self._slot()
            try:
                link = slot.ready()
                if link is None:
                    begin_s = time.monotonic()
                    async with asyncio.timeout(timeout):
                        link = await slot.usable()
                    timeout -= time.monotonic() - begin_s
                number, exchange = link.send(head, body)
                timer = link.loop.call_later(timeout, link.expire, number)
                try:
                    await exchange.done
                except asyncio.CancelledError:
                    link.give_up(number)
                    raise
                finally:
                    timer.cancel()
            except TimeoutError as error:
                raise call_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from error
            except LostCallError as error:
                raise error.as_grpc() from error
            return response_deserializer(reply_of(exchange))

        return call

    def stream_stream(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what opens a stream both ways; the shape of ``grpc.aio.Channel.stream_stream``."""

        def call(requests: AsyncIterator[Any], *, metadata: tuple[tuple[str, str], ...]) -> WireStream:
            return WireStream(
                self._usable,
                request_head(self._place.address, method, None, metadata, scheme=self._place.scheme),
                requests,
                serialize=request_serializer,
                deserialize=response_deserializer,
            )

        return call

    async def close(self) -> None:
        """Closes the connections; calls in progress are cancelled."""
        await asyncio.gather(*(slot.close() for slot in self._slots))

    async def _usable(self) -> WireLink:
        return await self._slot().usable()

    def _slot(self) -> WireSlot:
        slots = self._slots
        return slots[0] if len(slots) == 1 else min(slots, key=_calls)


def _calls(slot: WireSlot) -> int:
    return slot.calls
