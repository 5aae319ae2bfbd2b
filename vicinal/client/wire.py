"""Unary calls of the asyncio client over plain text, on our own HTTP/2; docs/adr/0007-own-http2.md says why.

What is called here raises what gRPC's client would: ``grpc.aio.AioRpcError``. TLS, streams and addresses of other
forms stay gRPC's.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import grpc

from vicinal.client.exchange import Exchange, LostCallError
from vicinal.client.wire_link import WireLink
from vicinal.http2.fields import decode_binary, decode_message, literal

_STATUS = {code.value[0]: code for code in grpc.StatusCode}
_PREFIX_BYTES = 5
_BY_HTTP = {"401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}
"""Status codes of gRPC for those of HTTP, where what answers is no gRPC server."""
_OWN = frozenset({":status", "content-type", "grpc-status", "grpc-message", "grpc-encoding", "grpc-accept-encoding"})
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
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._link: WireLink | None = None
        self._opening: asyncio.Task[WireLink] | None = None
        self._heads: dict[tuple[str, int, tuple[tuple[str, str], ...]], bytes] = {}
        self._closed = False

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what calls an RPC; the shape of ``grpc.aio.Channel.unary_unary``."""

        async def call(request: Any, *, timeout: float, metadata: Iterable[tuple[str, str]]) -> Any:
            raw = request_serializer(request)
            head = self._head(method, timeout, tuple(metadata))
            body = b"\0" + len(raw).to_bytes(4, "big") + raw
            try:
                async with asyncio.timeout(timeout):
                    exchange = await self._exchange(head, body)
            except TimeoutError as error:
                raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from error
            except LostCallError as error:
                raise _error(_STATUS[error.code], error.details) from error
            return response_deserializer(_content(exchange))

        return call

    async def close(self) -> None:
        """Closes the connection; calls in progress are cancelled."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._link is not None:
            self._link.close()

    async def _exchange(self, head: bytes, body: bytes) -> Exchange:
        link = self._link
        while link is None or not link.usable or link.is_full:
            if link is not None and link.usable:
                await link.room()
            else:
                link = await self._connected()
        number, exchange = link.send(head, body)
        try:
            return await exchange.done
        except asyncio.CancelledError:
            link.give_up(number)
            raise

    async def _connected(self) -> WireLink:
        if self._closed:
            raise LostCallError(grpc.StatusCode.CANCELLED.value[0], "the client was closed")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)
        # Whoever gives up does not take the connection from those who wait too.
        return await asyncio.shield(self._opening)

    async def _open(self) -> WireLink:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(WireLink, self._host, self._port)
        except OSError as error:
            raise LostCallError(
                grpc.StatusCode.UNAVAILABLE.value[0], f"failed to connect to {self._address}: {error}"
            ) from error
        self._link = link
        return link

    def _opened(self, task: "asyncio.Task[WireLink]") -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()

    def _head(self, method: str, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> bytes:
        timeout_ms = min(99_999_999, max(1, round(1000 * timeout_s)))
        key = (method, timeout_ms, metadata)
        known = self._heads.get(key)
        if known is None:
            fields = {
                ":path": method,
                ":authority": self._address,
                "te": "trailers",
                "content-type": "application/grpc",
                "grpc-timeout": f"{timeout_ms}m",
                "user-agent": "vicinal-python",
            }
            # POST and http are the entries 3 and 6 of the fixed table.
            known = b"\x83\x86" + b"".join(literal(name, value) for name, value in fields.items())
            known += b"".join(literal(name, value, secret=True) for name, value in metadata)
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[key] = known
        return known


def _content(exchange: Exchange) -> bytes:
    """Returns the message of a reply.

    Raises:
        grpc.aio.AioRpcError: the call failed.
    """
    fields, data = exchange.fields, exchange.data
    status = fields.get("grpc-status", "")
    if status == "0" and len(data) >= _PREFIX_BYTES and not data[0]:
        return bytes(memoryview(data)[_PREFIX_BYTES:])
    if status == "0":
        raise _error(grpc.StatusCode.INTERNAL, "the reply is not one message that is not compressed")
    if not status.isdecimal():
        code = _BY_HTTP.get(fields.get(":status", ""), grpc.StatusCode.UNKNOWN.value[0])
        raise _error(_STATUS[code], f"no gRPC server: HTTP status {fields.get(':status', 'unknown')}")
    trailing: list[tuple[str, Any]] = []
    for name, value in fields.items():
        if name.endswith("-bin"):
            trailing += ((name, one) for one in decode_binary(value))
        elif name not in _OWN:
            trailing.append((name, value))
    code_found = _STATUS.get(int(status), grpc.StatusCode.UNKNOWN)
    raise _error(code_found, decode_message(fields.get("grpc-message", "")), trailing)


def _error(code: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, Any]] = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)
