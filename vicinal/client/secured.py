"""TLS over a blocking socket that waits by the kernel's timeouts, which a socket of ``ssl`` does not."""

import socket
import ssl
import time

from vicinal.client.place import Place

_READ_BYTES = 1 << 16


class SecuredSocket:
    """Sends and receives as a socket does; handshake and records are OpenSSL's, this carries the bytes.

    Args:
        one: a connected socket; what it raises is raised here.
        place: what it is connected to.
        deadline_s: of the handshake, on the monotonic clock.

    Raises:
        OSError: the server is not the one that was expected, or ended the connection.
        TimeoutError: the deadline passed.
        LostCallError: it does not speak HTTP/2.
    """

    def __init__(self, one: socket.socket, place: Place, deadline_s: float) -> None:
        assert place.tls is not None
        self._socket = one
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = place.tls.wrap_bio(self._incoming, self._outgoing, server_hostname=place.name)
        self._shake_hands(deadline_s)
        place.check(self._tls)

    def sendall(self, data: bytes) -> None:
        """Sends everything."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._flush()

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Returns what has come, at most so many bytes; nothing where the server has ended the connection."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill(flags):
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    def _shake_hands(self, deadline_s: float) -> None:
        while True:
            self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("the server ended the connection during the handshake") from None
            except ssl.SSLError:
                # The server hears why.
                self._flush()
                raise
            else:
                self._flush()
                return

    def _fill(self, flags: int = 0) -> bool:
        data = self._socket.recv(_READ_BYTES, flags)
        self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())
