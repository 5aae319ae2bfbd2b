"""Unary calls of the blocking client on our own HTTP/2: one connection for each call in progress.

A thread that waits for its own reply on its own connection needs no other thread, no lock and no event loop.
What is called here raises what gRPC's client would.
"""

import os
import socket
import ssl
import struct
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, TypeAlias

from typing_extensions import override

from vicinal.client.exchange import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    UNAVAILABLE,
    Exchange,
    LostCallError,
    framed,
    reply_of,
    request_head,
)
from vicinal.client.link import KEEPALIVE_S, KEEPALIVE_WAIT_S, PING, Link
from vicinal.client.place import Place
from vicinal.client.secured import SecuredSocket

IS_SUPPORTED = hasattr(socket, "MSG_DONTWAIT") and hasattr(os, "register_at_fork")
"""Whether this system has what is used here."""
Carrier: TypeAlias = socket.socket | SecuredSocket
_MOST_IDLE = 64
_READ_BYTES = 1 << 16
_SOON_S = 0.001
_FRESH_S = 0.02
"""A connection that was heard less long ago is not listened to before it is used again."""


class BlockingChannel:
    """Connects when it is called and no connection is idle.

    Args:
        address: ``HOST:PORT``.
        tls: what a handshake takes; None is plain text.
        server_name: expected in the server's certificate; empty for the host.
    """

    def __init__(self, address: str, *, tls: ssl.SSLContext | None = None, server_name: str = "") -> None:
        self._place = Place.of(address, tls, server_name)
        self._idle: deque[BlockingLink] = deque()
        self._busy: set[BlockingLink] = set()
        self._closed = False
        _CHANNELS.add(self)

    def unary_unary(self, method: str, *, request_serializer: Any, response_deserializer: Any) -> Any:
        """Returns what calls an RPC; the shape of ``grpc.Channel.unary_unary``."""

        def call(request: Any, *, timeout: float, metadata: tuple[tuple[str, str], ...]) -> Any:
            head = request_head(self._place.address, method, timeout, metadata, scheme=self._place.scheme)
            body = framed(request_serializer(request))
            try:
                exchange = self._exchange(head, body, time.monotonic() + timeout)
            except LostCallError as error:
                raise error.as_grpc() from error
            return response_deserializer(reply_of(exchange))

        return call

    def close(self) -> None:
        """Closes the connections; calls in progress are cancelled."""
        self._closed = True
        for link in list(self._busy):
            # Whoever waits there finds its end; the connection is that thread's to close.
            link.interrupt()
        while (idle := self._pop()) is not None:
            idle.close()

    def forget(self) -> None:
        """Leaves the connections to the process that this one was forked from."""
        links = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for link in links:
            link.close()

    def _exchange(self, head: bytes, body: bytes, deadline_s: float) -> Exchange:
        link = self._link(deadline_s)
        self._busy.add(link)
        try:
            self._check_open()
            return link.exchange(head, body, deadline_s)
        except LostCallError:
            # Its end was ours, perhaps.
            self._check_open()
            raise
        finally:
            self._busy.discard(link)
            if link.usable and not link.calls and len(self._idle) < _MOST_IDLE:
                self._idle.append(link)
            else:
                link.close()
            if self._closed:
                self.close()

    def _pop(self) -> "BlockingLink | None":
        """Returns the idle connection that was used last: calls one after the other stay on one."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _check_open(self) -> None:
        if self._closed:
            raise LostCallError(CANCELLED, "the client was closed")

    def _link(self, deadline_s: float) -> "BlockingLink":
        while (link := self._pop()) is not None:
            if link.is_fresh():
                return link
            link.close()
        self._check_open()
        place, left_s = self._place, max(_SOON_S, deadline_s - time.monotonic())
        try:
            one = socket.create_connection((place.host, place.port), timeout=left_s)
            try:
                return BlockingLink(one, SecuredSocket(one, place, deadline_s) if place.tls else one)
            except BaseException:
                one.close()
                raise
        except TimeoutError as error:
            raise LostCallError(DEADLINE_EXCEEDED, "Deadline Exceeded") from error
        except OSError as error:
            raise LostCallError(UNAVAILABLE, f"failed to connect to {place.address}: {error}") from error


class _Outcome:
    """How a call ended, for the one thread that waits for it."""

    __slots__ = ("error", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.is_done

    def set_result(self, exchange: Exchange) -> None:
        del exchange
        self.is_done = True

    def set_exception(self, error: BaseException) -> None:
        self.is_done, self.error = True, error


class _Plug:
    """A socket as a connection writes to it."""

    def __init__(self, one: socket.socket, carrier: Carrier) -> None:
        self.write = carrier.sendall
        self.socket = one

    def is_closing(self) -> bool:
        return self.socket.fileno() < 0

    def close(self) -> None:
        self.socket.close()


class BlockingLink(Link):
    """One connection, for one thread at a time.

    Args:
        one: the connected socket.
        carrier: sends and receives on it: itself, or with TLS.
    """

    def __init__(self, one: socket.socket, carrier: Carrier) -> None:
        super().__init__(_Outcome)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = one
        self._carrier = carrier
        one.settimeout(None)
        self._wait_s = -1.0
        self._heard_s = time.monotonic()
        self.greet(_Plug(one, carrier))

    def is_fresh(self) -> bool:
        """Hears what the server has said since the last call; returns whether it takes another."""
        if time.monotonic() - self._heard_s < _FRESH_S:
            return True
        try:
            while self.usable:
                data = self._carrier.recv(_READ_BYTES, socket.MSG_DONTWAIT)
                if not data:
                    return False
                self.receive(data)
        except BlockingIOError:
            return self.usable
        except OSError:
            return False
        return False

    def exchange(self, head: bytes, body: bytes, deadline_s: float) -> Exchange:
        """Sends a request and waits for its reply.

        Args:
            head: the block of its headers.
            body: its message with the prefix.
            deadline_s: on the monotonic clock.

        Raises:
            LostCallError: it ended without a status of the server.
        """
        try:
            self._wait(deadline_s - time.monotonic())
            number, exchange = self.send(head, body)
            done: _Outcome = exchange.done
            while not done.is_done:
                self._hear(number, deadline_s)
        except BlockingIOError as error:
            raise LostCallError(DEADLINE_EXCEEDED, "Deadline Exceeded") from error
        except OSError as error:
            self.end(UNAVAILABLE, f"the connection was lost: {error}")
            raise LostCallError(UNAVAILABLE, f"the connection was lost: {error}") from error
        if done.error is not None:
            raise done.error
        return exchange

    def interrupt(self) -> None:
        """Ends the wait of the thread that uses it, from another."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    @override
    def close(self) -> None:
        self.usable = False
        self._socket.close()

    def _hear(self, number: int, deadline_s: float) -> None:
        """Waits until something comes of the server, and takes it."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            self.expire(number)
            return
        self._wait(min(left_s, KEEPALIVE_S))
        try:
            data = self._carrier.recv(_READ_BYTES)
        except BlockingIOError:
            if left_s > KEEPALIVE_S:
                self._ask(deadline_s)
            return
        if data:
            self._heard_s = time.monotonic()
            self.receive(data)
        else:
            self.end(UNAVAILABLE, "the connection was lost")

    def _ask(self, deadline_s: float) -> None:
        """Asks a silent server whether it is there, and waits for any word of it."""
        self._carrier.sendall(PING)
        left_s = deadline_s - time.monotonic()
        self._wait(min(left_s, KEEPALIVE_WAIT_S))
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            if left_s > KEEPALIVE_WAIT_S:
                self.end(UNAVAILABLE, "the server is silent")

    def _wait(self, seconds: float) -> None:
        """Says how long the socket may wait; nothing is changed where that is right but for a moment."""
        seconds = max(seconds, _SOON_S)
        if not 0 <= self._wait_s - seconds < _SOON_S:
            self._wait_s = seconds
            # By the kernel: a socket with a timeout of Python's makes two system calls of each, and gives the
            # interpreter away in both.
            whole = int(seconds)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(
                    socket.SOL_SOCKET, option, struct.pack("ll", whole, int(1e6 * (seconds - whole)))
                )


_CHANNELS: "weakref.WeakSet[BlockingChannel]" = weakref.WeakSet()


def _forget_all() -> None:
    for channel in list(_CHANNELS):
        channel.forget()


if IS_SUPPORTED:
    # Two processes on one connection would read each other's replies.
    os.register_at_fork(after_in_child=_forget_all)
