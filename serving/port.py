"""One port for several workers, and for nobody else.

Workers share a port with SO_REUSEPORT, which any program of the same user could join without a
word. So the supervisor takes an exclusive lock on the port first, makes sure that nobody listens
there, and keeps a bound socket that does not listen, so that the port stays its own.
"""

import contextlib
import platform
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from vicinal.errors import UnavailableError
from vicinal.locks import locked


class PortGuard:
    """Holds a port for the workers of one supervisor.

    Args:
        host: address to listen on.
        port: port, 0 for a free one.

    Raises:
        UnavailableError: somebody has the port, or the address is not of this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        self._stack = contextlib.ExitStack()
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            if port:
                self._lock(port)
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
            held = self._stack.enter_context(socket.socket(family, kind, protocol))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(address)
            self.port: int = held.getsockname()[1]
            if not port:
                self._lock(self.port)
        except OSError as error:
            self._stack.close()
            raise UnavailableError(
                f"cannot listen on {host}:{port}: the port is taken or the address is not of this machine "
                f"({error.strerror or error}); choose another with --port"
            ) from error
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Gives the port up."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, port: int) -> None:
        if platform.system() == "Linux":
            # An abstract address lives in the network name space, as ports do, and goes with its owner.
            lock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            lock.bind(f"\0vicinal-serve-{port}")
            return
        path = Path(tempfile.gettempdir()) / f"vicinal-serve-{port}.lock"
        self._stack.enter_context(locked(path, shared=False, wait=False))
