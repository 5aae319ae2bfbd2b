"""The place of one connection of the asyncio client: opens it when it is wanted, and again after it was lost."""

import asyncio

from vicinal.client.exchange import CANCELLED, UNAVAILABLE, LostCallError
from vicinal.client.place import Place
from vicinal.client.wire_link import WireLink

_GOODBYE_S = 2.0
"""How long a server may take to hear that a connection ends."""


class WireSlot:
    """Holds one connection at a time.

    Args:
        place: where it leads.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._link: WireLink | None = None
        self._ending: list[WireLink] = []
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

    async def close(self) -> None:
        """Ends the connection and its calls, for good."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._link is not None:
            self._link.close()
            self._ending.append(self._link)
        await asyncio.gather(*(link.ended() for link in self._ending))

    async def _connected(self) -> WireLink:
        if self._closed:
            raise LostCallError(CANCELLED, "the client was closed")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)
        # Whoever gives up does not take the connection from those who wait too.
        return await asyncio.shield(self._opening)

    async def _open(self) -> WireLink:
        place = self._place
        try:
            transport, link = await asyncio.get_running_loop().create_connection(
                WireLink,
                place.host,
                place.port,
                ssl=place.tls,
                server_hostname=place.name if place.tls else None,
                ssl_shutdown_timeout=_GOODBYE_S if place.tls else None,
            )
        except OSError as error:
            raise LostCallError(UNAVAILABLE, f"failed to connect to {place.address}: {error}") from error
        # Those before it may still wait for the server's last word.
        self._ending = [one for one in (*self._ending, self._link) if one is not None and not one.is_lost]
        self._link = link
        try:
            place.check(transport.get_extra_info("ssl_object"))
        except LostCallError:
            link.close()
            raise
        return link

    def _opened(self, task: "asyncio.Task[WireLink]") -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()
