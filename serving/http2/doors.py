"""Takes connections in for one of several workers, or gives them to one that has fewer."""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from serving.handover import Seat
from serving.http2.link import Link

logger = logging.getLogger(__name__)
_MOST_AT_ONCE = 64
_PAUSE_S = 1.0
_HANDSHAKE_S = 10.0
"""How long a caller may take to agree on TLS."""
GOODBYE_S = 2.0
"""How long it may take to hear the end of a connection."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class OpenLinks(set[Link]):
    """The open connections of a worker."""

    on_end: Callable[[], None] | None = None
    """Called when one has ended."""

    @override
    def discard(self, link: object) -> None:
        super().discard(link)
        if self.on_end is not None:
            self.on_end()


class Doors:
    """The sockets by which connections come to one worker, of the running event loop.

    Args:
        make: makes the protocol of a connection.
        links: the connections that are open.
        seat: knows the other workers; None: there are none.
        tls: gives what the handshake of the next connection takes; None is plain text.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        links: OpenLinks,
        *,
        seat: Seat | None,
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._make = make
        self._links = links
        self._seat = seat
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._arriving: set[asyncio.Task[Any]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        if seat is not None:
            links.on_end = self._show
            self._loop.add_reader(seat.inbox, self._take, seat)

    def open(self, listener: socket.socket) -> None:
        """Accepts what comes to a listening socket, which is closed with this."""
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    async def close(self) -> None:
        """Accepts nothing more; connections stay, but for those that have not agreed on TLS yet."""
        if self._seat is not None:
            self._loop.remove_reader(self._seat.inbox)
        for pause in self._pauses.values():
            pause.cancel()
        while self._listeners:
            listener = self._listeners.pop()
            self._loop.remove_reader(listener)
            listener.close()
        # What has been accepted begins, so that it is ended by what it began with.
        await asyncio.sleep(0)
        arriving = list(self._arriving)
        for task in arriving:
            task.cancel()
        await asyncio.gather(*arriving, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_MOST_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._rest(listener, error)
                    return
                # One that its client gave up before it was accepted.
                continue
            if self._seat is not None and self._seat.give(connection):
                connection.close()
            else:
                self._take_in(connection)

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        logger.error("cannot take a connection in (%s); trying again in %g s", error.strerror, _PAUSE_S)
        self._loop.remove_reader(listener)
        again = self._loop.call_later(_PAUSE_S, self._loop.add_reader, listener, self._accept, listener)
        self._pauses[listener] = again

    def _take(self, seat: Seat) -> None:
        for connection in seat.take():
            self._take_in(connection)

    def _take_in(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._begin(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arrived)
        self._show()

    async def _begin(self, connection: socket.socket) -> None:
        if self._tls is None:
            await self._loop.connect_accepted_socket(self._make, connection)
            return
        await self._loop.connect_accepted_socket(
            self._make,
            connection,
            ssl=self._tls(),
            ssl_handshake_timeout=_HANDSHAKE_S,
            ssl_shutdown_timeout=GOODBYE_S,
        )

    def _arrived(self, task: "asyncio.Task[Any]") -> None:
        self._arriving.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.info("a connection ended before it began: %s", error)
        self._show()

    def _show(self) -> None:
        if self._seat is not None:
            self._seat.show(len(self._links) + len(self._arriving))
