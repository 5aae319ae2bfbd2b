"""The server: listens, finds handlers, and ends in order; stands where ``grpc.aio.server`` does."""

import asyncio
import errno
import inspect
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc

from serving.calls import AT_ONCE, OTHERWISE
from serving.handover import Seat
from serving.http2.connection import Connection
from serving.http2.doors import GOODBYE_S, Doors, OpenLinks
from serving.http2.link import Limits
from serving.http2.turns import Turns
from vicinal.http2.frames import ErrorCode

_BACKLOG = 1024
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True)
class _CallDetails:
    """What a generic handler is asked with."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...] = ()


class Http2Server:
    """Serves generic RPC handlers over HTTP/2.

    Args:
        limits: what one connection may take.
        reuse_port: share the port with other processes.
        seat: by which connections are handed on to other workers; None keeps them all.
        turns: where calls wait that take no task; None lets as many wait as the connections may have in progress.
        tls: gives what the handshake of the next connection takes; None is plain text.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        reuse_port: bool,
        seat: Seat | None = None,
        turns: Turns | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._limits = limits
        self._reuse_port = reuse_port
        self._generic: list[Any] = []
        self._known: dict[str, Any] = {}
        self._sockets: list[socket.socket] = []
        self._seat = seat
        self._tls = tls
        self._doors: Doors | None = None
        self._links = OpenLinks()
        self._turns = Turns() if turns is None else turns

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers; the first that knows a method answers it."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Adds the handlers of one service by the names of its methods."""
        self._known |= {f"/{service}/{name}": _prepared(handler) for name, handler in handlers.items()}

    def add_port(self, address: str) -> int:
        """Opens a port.

        Args:
            address: ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:PATH``; port 0 takes a free one.

        Returns:
            The port; 1 for a path.

        Raises:
            RuntimeError: it cannot be opened.
        """
        try:
            if address.startswith("unix:"):
                self._sockets.append(_unix_socket(address.removeprefix("unix:").removeprefix("//")))
                return 1
            host, _, port = address.rpartition(":")
            opened = _tcp_sockets(host.strip("[]"), int(port), reuse_port=self._reuse_port)
            self._sockets += opened
            return int(opened[0].getsockname()[1])
        except (OSError, ValueError) as error:
            raise RuntimeError(f"cannot listen on {address}: {error}") from error

    async def start(self) -> None:
        """Begins to answer."""
        self._doors = Doors(self._connection, self._links, seat=self._seat, tls=self._tls)
        for opened in self._sockets:
            self._doors.open(opened)

    def _connection(self) -> Connection:
        return Connection(self._find, self._limits, self._links, self._turns)

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls, lets those in progress end, and closes everything.

        Args:
            grace: seconds that they have; None or 0 ends them at once.
        """
        if self._doors is not None:
            await self._doors.close()
        links = list(self._links)
        for link in links:
            link.go_away()
        await _until(lambda: not any(link.streams for link in links), grace or 0)
        tasks = [stream.task for link in links for stream in link.streams.values() if stream.task is not None]
        for link in links:
            for stream in list(link.streams.values()):
                stream.finish(grpc.StatusCode.UNAVAILABLE.value[0], "the server is shutting down; retry on another")
            link.close(ErrorCode.NO_ERROR, "the server is shutting down")
        await asyncio.gather(*tasks, return_exceptions=True)
        # The last words are under way, and of TLS those of the other end.
        await _until(lambda: not self._links, GOODBYE_S)
        for link in list(self._links):
            link.abort()

    def _find(self, method: str) -> Any:
        handler = self._known.get(method)
        if handler is not None:
            return handler
        details: Any = _CallDetails(method)
        for generic in self._generic:
            found = generic.service(details)
            if found is not None:
                # Names that nobody answers are not remembered: there is no end to them.
                prepared = self._known[method] = _prepared(found)
                return prepared
        return None


async def _until(is_so: Callable[[], bool], seconds: float) -> None:
    """Waits until something is so, at most so long."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + seconds
    while not is_so() and loop.time() < deadline_s:
        await asyncio.sleep(0.005)


def _prepared(handler: Any) -> Any:
    function = handler.unary_unary
    return SimpleNamespace(
        request_streaming=handler.request_streaming,
        response_streaming=handler.response_streaming,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
        unary_unary=getattr(function, OTHERWISE, function),
        unary_stream=handler.unary_stream,
        stream_unary=handler.stream_unary,
        stream_stream=handler.stream_stream,
        at_once=getattr(function, AT_ONCE, None) if inspect.iscoroutinefunction(function) else None,
    )


def _tcp_sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """Returns a socket for each address of a host, such as the two of localhost, on one port."""
    found: Sequence[Any] = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    for family, _, _, _, place in found:
        try:
            chosen = opened[0].getsockname()[1] if opened else port
            opened.append(_tcp_socket(family, (place[0], chosen, *place[2:]), reuse_port=reuse_port))
        except OSError as error:
            # An address that this machine does not have matters only where it is the only one.
            if error.errno not in _NOT_HERE or (not opened and place is found[-1][4]):
                raise
    return opened


def _tcp_socket(family: int, place: tuple[Any, ...], *, reuse_port: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # With IPv4 for every address, beside it for one of several.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place[0] != "::"))
        opened.bind(place)
        opened.listen(_BACKLOG)
        opened.settimeout(0)
    except OSError:
        opened.close()
        raise
    return opened


def _unix_socket(path: str) -> socket.socket:
    place = Path(path)
    if place.is_socket():
        # What a server that was killed has left.
        place.unlink()
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.bind(path)
    opened.listen(_BACKLOG)
    opened.settimeout(0)
    return opened
