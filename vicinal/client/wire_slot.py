"""The place of one connection of the asyncio client: opens it when it is wanted, and again after it was lost."""

import asyncio

from vicinal.client.exchange import CANCELLED, UNAVAILABLE, LostCallError
from vicinal.client.wire_link import WireLink


class WireSlot:
    """Holds one connection at a time.

    Args:
        host: of the server, without brackets.
        port: of the server.
        address: both, for messages.
    """

    def __init__(self, host: str, port: int, address: str) -> None:
        self._host, self._port, self._address = host, port, address
        self._link: WireLink | None = None
        self._opening: asyncio.Task[WireLink] | None = None
        self._closed = False
        self.waiting = 0
        """Calls that wait for the connection, or for room on it."""

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self.waiting + (0 if self._link is None else self._link.calls)

    def ready(self) -> WireLink | None:
        """Returns a connection that takes one call more at once, None where ``usable`` must be waited for."""
        link = self._link
        return link if link is not None and link.usable and not link.is_full else None

    async def usable(self) -> WireLink:
        """Returns a connection that takes one call more.

        Raises:
            LostCallError: nobody answers, or this was closed.
        """
        ready = self.ready()
        if ready is not None:
            return ready
        link = self._link
        self.waiting += 1
        try:
            while link is None or not link.usable or link.is_full:
                if link is not None and link.usable:
                    await link.room()
                else:
                    link = await self._connected()
        finally:
            self.waiting -= 1
        return link

    def close(self) -> None:
        """Ends the connection and its calls, for good."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._link is not None:
            self._link.close()

    async def _connected(self) -> WireLink:
        if self._closed:
            raise LostCallError(CANCELLED, "the client was closed")
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
            raise LostCallError(UNAVAILABLE, f"failed to connect to {self._address}: {error}") from error
        self._link = link
        return link

    def _opened(self, task: "asyncio.Task[WireLink]") -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()
