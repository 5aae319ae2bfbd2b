"""Whose turn it is: calls that are answered in one go, in the order in which they came."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.http2.connection import Connection
    from serving.http2.stream import Stream


class Turns:
    """Answers one call in each turn of the event loop, so that between two of them it is seen who else has called.

    Were all connections answered that are ready, one whose call comes a moment late would wait for the others twice,
    and tasks, such as those of images, would wait for all of them.

    A connection has no more calls waiting than it may have in progress, those included that it has taken back. What is
    over the bound for all is given to its coroutine, marked as turned away.

    Args:
        most: says how many calls may wait.
    """

    def __init__(self, most: Callable[[], int] = lambda: sys.maxsize) -> None:
        self._most = most
        self._waiting: deque[tuple[Connection, Stream, bytes, float]] = deque()
        self._is_taken = False

    def __len__(self) -> int:
        """Returns how many calls wait."""
        return len(self._waiting)

    def take(self, connection: "Connection", stream: "Stream", payload: bytes) -> None:
        """Answers a call, now or when those before it are answered.

        Args:
            connection: what it came on.
            stream: the call.
            payload: its one message, as it came in a frame.
        """
        if self._is_taken:
            if len(self._waiting) >= self._most():
                connection.turn_away(stream, payload)
                return
            connection.waiting_calls += 1
            self._waiting.append((connection, stream, payload, time.monotonic()))
            return
        self._is_taken = True
        connection.loop.call_soon(self._next, connection.loop)
        connection.answer(stream, payload)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            connection, stream, payload, came_s = self._waiting.popleft()
            stream.waited_s = time.monotonic() - came_s
            connection.waiting_calls -= 1
            is_wanted = connection.still_wants(stream, payload)
            if is_wanted:
                loop.call_soon(self._next, loop)
                connection.answer(stream, payload)
            connection.flush()
            if is_wanted:
                return
        self._is_taken = False
