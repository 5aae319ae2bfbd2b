"""Where a server is, and how it is known to be the right one."""

import ssl
from dataclasses import dataclass
from typing import Self

from vicinal.client.exchange import PLAIN, SECURE, UNAVAILABLE, LostCallError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What our own HTTP/2 connects to."""

    address: str
    """``HOST:PORT``."""
    host: str
    """Without brackets."""
    port: int
    tls: ssl.SSLContext | None
    """What a handshake takes; None is plain text."""
    name: str
    """Expected in the server's certificate."""

    @classmethod
    def of(cls, address: str, tls: ssl.SSLContext | None = None, server_name: str = "") -> Self:
        """Returns the place of an address.

        Args:
            address: ``HOST:PORT``.
            tls: what a handshake takes; None is plain text.
            server_name: expected in the server's certificate; empty for the host.
        """
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        return cls(address=address, host=host, port=int(port), tls=tls, name=server_name or host)

    @property
    def scheme(self) -> bytes:
        """As the headers of a request say it."""
        return PLAIN if self.tls is None else SECURE

    def check(self, tls: ssl.SSLObject | None) -> None:
        """Checks what a handshake agreed on.

        Raises:
            LostCallError: it is not HTTP/2.
        """
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            raise LostCallError(UNAVAILABLE, f"{self.address} speaks TLS, but not HTTP/2")
