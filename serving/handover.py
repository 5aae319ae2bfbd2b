"""Connections evenly over the workers of one port: who has more of them than another gives a new one away.

With SO_REUSEPORT the kernel takes a worker for each connection by chance. Clients of gRPC have few connections and keep
them: of eight, chance gives six or more to one of two workers in three cases of ten, and the other has little to do.
An accepted connection can be handed on, as it is a file (SCM_RIGHTS).
"""

import logging
import mmap
import os
import socket
from collections.abc import Callable, Iterator

logger = logging.getLogger(__name__)
_MOST_AT_ONCE = 64


class Handover:
    """What the workers share; made before they are forked.

    Each writes its own numbers alone, so there are no locks: connections that it has, those that it gave to each
    other, and those that it took.

    Args:
        worker_count: workers, at least 1.
    """

    def __init__(self, worker_count: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, 8 * worker_count * (worker_count + 2))).cast("q")
        # A worker that is started again finds what was given to the one before it.
        self._ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(worker_count)]
        for end in (end for pair in self._ends for end in pair):
            end.settimeout(0)

    def seat(self, number: int, is_live: Callable[[int], bool]) -> "Seat":
        """Returns what a worker needs, in its own process.

        Args:
            number: of the worker.
            is_live: whether a worker answers.
        """
        return Seat(number, self._memory, self._ends, is_live)

    def close(self) -> None:
        """Ends what was given to workers and not taken."""
        for end in (end for pair in self._ends for end in pair):
            end.close()


class Seat:
    """One worker's part; see ``Handover``."""

    def __init__(
        self,
        number: int,
        memory: "memoryview[int]",
        ends: list[tuple[socket.socket, socket.socket]],
        is_live: Callable[[int], bool],
    ) -> None:
        self._number = number
        self._memory = memory
        self._ends = ends
        self._is_live = is_live
        self.show(0)

    @property
    def inbox(self) -> socket.socket:
        """Readable when there is something to ``take``."""
        return self._ends[self._number][0]

    def show(self, connections: int) -> None:
        """Says how many connections this worker has."""
        self._memory[self._number] = connections

    def give(self, connection: socket.socket) -> bool:
        """Gives a new connection to the worker that has the fewest, if that are fewer than this one's.

        Args:
            connection: an accepted one; stays open here.

        Returns:
            Whether it is given; else it is this worker's.
        """
        loads = [(self._load(other), other) for other in range(len(self._ends)) if self._is_live(other)]
        least, chosen = min(loads, default=(0, self._number))
        if least >= self._memory[self._number] or chosen == self._number:
            return False
        try:
            socket.send_fds(self._ends[chosen][1], [b"\0"], [connection.fileno()])
        except OSError:
            # It has been given more than it takes.
            return False
        self._memory[self._given(self._number, chosen)] += 1
        return True

    def take(self) -> Iterator[socket.socket]:
        """Yields the connections that others have given."""
        for _ in range(_MOST_AT_ONCE):
            try:
                _, files, _, _ = socket.recv_fds(self.inbox, 1, 1)
            except OSError:
                return
            self._memory[self._taken(self._number)] += 1
            if not files:
                logger.error("a connection was lost on its way to this worker: it may open no more files")
            for file in files:
                os.set_inheritable(file, False)  # noqa: FBT003 - takes no names
                yield socket.socket(fileno=file)

    def _load(self, number: int) -> int:
        """Returns the connections of a worker, with those that it will find in its inbox."""
        waiting = self._given_to(number) - self._memory[self._taken(number)]
        return self._memory[number] + max(0, waiting)

    def _given_to(self, number: int) -> int:
        return sum(self._memory[self._given(giver, number)] for giver in range(len(self._ends)))

    def _taken(self, number: int) -> int:
        return len(self._ends) + number

    def _given(self, giver: int, number: int) -> int:
        return len(self._ends) * (2 + giver) + number
