"""Locks between processes, on files (flock): nothing is left behind by a holder that dies."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from vicinal.artifact import storage_guard
from vicinal.errors import BusyError


@contextlib.contextmanager
def locked(path: Path, *, shared: bool, wait: bool) -> Iterator[IO[bytes]]:
    """Holds a lock on a file; it is free again when the holder ends, however it ends.

    Args:
        path: the file; made when missing, unless the lock is shared.
        shared: with other shared holders, or alone.
        wait: wait for the lock, or give up at once.

    Raises:
        BusyError: somebody holds it and ``wait`` is false.
        StorageError: the file cannot be opened.
    """
    with storage_guard(path):
        stream = path.open("rb" if shared else "ab")
    with stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(f"another process is writing to {path.parent}; wait for it to end") from error
        yield stream


def is_held(path: Path) -> bool:
    """Returns whether anybody holds a lock on a file."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
