"""One connection of the asyncio client."""

import asyncio
from collections import deque

from typing_extensions import override

from vicinal.client.exchange import UNAVAILABLE
from vicinal.client.link import KEEPALIVE_S, KEEPALIVE_WAIT_S, PING, Link


class WireLink(Link, asyncio.Protocol):
    """One connection, of the event loop that runs when it is made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        """Whose connection it is."""
        super().__init__(self.loop.create_future)
        self._outlet.soon = self.loop.call_soon
        self._queue: deque[asyncio.Future[None]] = deque()
        self._heard_s = self.loop.time()
        self._keeper: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()

    @property
    def is_lost(self) -> bool:
        """Whether nothing is left of the connection."""
        return self._lost.is_set()

    async def ended(self) -> None:
        """Waits until a connection that was closed is: under TLS both ends say so first."""
        await self._lost.wait()

    async def room(self) -> None:
        """Waits until the server may take one call more, or the connection is over."""
        self._queue.append(self.loop.create_future())
        await self._queue[-1]

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.greet(transport)
        self._keeper = self.loop.call_later(KEEPALIVE_S, self._keep)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.end(UNAVAILABLE, f"the connection was lost{f': {exc}' if exc else ''}")
        self._lost.set()

    @override
    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        self.receive(data)

    @override
    def end(self, code: int, details: str) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        super().end(code, details)

    @override
    def _call_next(self) -> None:
        while self._queue and not (self.usable and self.is_full):
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    @override
    def _call_all(self) -> None:
        for _ in range(len(self._queue)):
            self._call_next()

    def _keep(self) -> None:
        silent_s = self.loop.time() - self._heard_s
        if self._exchanges and silent_s >= KEEPALIVE_S + KEEPALIVE_WAIT_S:
            self.end(UNAVAILABLE, "the server is silent")
            return
        if silent_s >= KEEPALIVE_S:
            self._outlet.write(PING)
        self._keeper = self.loop.call_later(KEEPALIVE_WAIT_S, self._keep)
