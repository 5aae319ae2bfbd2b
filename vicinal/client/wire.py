"""Calls and streams of the asyncio client over plain text, on our own HTTP/2; docs/adr/0007-own-http2.md says why.

What is called here raises what gRPC's client would: ``grpc.aio.AioRpcError``. TLS and addresses of other forms
stay gRPC's.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from vicinal.client.exchange import Exchange, LostCallError, call_error, check_status
from vicinal.client.wire_link import WireLink
from vicinal.client.wire_slot import WireSlot
from vicinal.client.wire_stream import PREFIX_BYTES, WireStream, framed
from vicinal.http2.fields import literal

_MAX_HEADS = 256
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables by which gRPC is told of a proxy."""


def is_plain_address(address: str) -> bool:
    """Returns whether an address is ``HOST:PORT``, which is what is called here, and no proxy is wanted."""
    if any(os.environ.get(name) for name in _PROXIES):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and "/" not in host and (":" not in host or host.startswith("["))


class WireChannel:
    """Connects when it is first called, and again after the connection was lost.

    Args:
        address: ``HOST:PORT``.
        connections: at most; a call takes the one with the fewest calls in progress, the first of equals.
    """

    def __init__(self, address: str, *, connections: int = 1) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._slots = [WireSlot(host.strip("[]"), int(port), address) for _ in range(connections)]
        self._heads: dict[tuple[str, int, tuple[tuple[str, str], ...]], bytes] = {}

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what calls an RPC; the shape of ``grpc.aio.Channel.unary_unary``."""

        async def call(request: Any, *, timeout: float, metadata: Iterable[tuple[str, str]]) -> Any:
            head = self._head(method, timeout, tuple(metadata))
            body = framed(request_serializer(request))
            try:
                async with asyncio.timeout(timeout):
                    exchange = await self._exchange(head, body)
            except TimeoutError as error:
                raise call_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from error
            except LostCallError as error:
                raise error.as_grpc() from error
            return response_deserializer(_content(exchange))

        return call

    def stream_stream(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what opens a stream both ways; the shape of ``grpc.aio.Channel.stream_stream``."""

        def call(requests: AsyncIterator[Any], *, metadata: Iterable[tuple[str, str]]) -> WireStream:
            return WireStream(
                self._usable,
                self._head(method, None, tuple(metadata)),
                requests,
                serialize=request_serializer,
                deserialize=response_deserializer,
            )

        return call

    async def close(self) -> None:
        """Closes the connections; calls in progress are cancelled."""
        for slot in self._slots:
            slot.close()

    async def _exchange(self, head: bytes, body: bytes) -> Exchange:
        link = await self._slot().usable()
        number, exchange = link.send(head, body)
        try:
            return await exchange.done
        except asyncio.CancelledError:
            link.give_up(number)
            raise

    async def _usable(self) -> WireLink:
        return await self._slot().usable()

    def _slot(self) -> WireSlot:
        slots = self._slots
        return slots[0] if len(slots) == 1 else min(slots, key=_calls)

    def _head(self, method: str, timeout_s: float | None, metadata: tuple[tuple[str, str], ...]) -> bytes:
        timeout_ms = 0 if timeout_s is None else min(99_999_999, max(1, round(1000 * timeout_s)))
        key = (method, timeout_ms, metadata)
        known = self._heads.get(key)
        if known is None:
            fields = {
                ":path": method,
                ":authority": self._address,
                "te": "trailers",
                "content-type": "application/grpc",
                "user-agent": "vicinal-python",
            }
            if timeout_ms:
                fields["grpc-timeout"] = f"{timeout_ms}m"
            # POST and http are the entries 3 and 6 of the fixed table.
            known = b"\x83\x86" + b"".join(literal(name, value) for name, value in fields.items())
            known += b"".join(literal(name, value, secret=True) for name, value in metadata)
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[key] = known
        return known


def _calls(slot: WireSlot) -> int:
    return slot.calls


def _content(exchange: Exchange) -> bytes:
    """Returns the message of a reply.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    check_status(exchange.fields)
    if len(exchange.data) >= PREFIX_BYTES and not exchange.data[0]:
        return bytes(memoryview(exchange.data)[PREFIX_BYTES:])
    raise call_error(grpc.StatusCode.INTERNAL, "the reply is not one message that is not compressed")
