"""Who may come in: a bound on the calls in flight, for each client and in all.

What is over the bound is refused at once with RetryInfo, so that no queue can grow and callers that
are let in keep their latency.
"""

from collections import Counter
from typing import NoReturn

from serving.board import Slab
from serving.config import LimitsConfig
from vicinal.codec import RETRY_AFTER_KEY
from vicinal.errors import OverloadedError, UnavailableError


class Admission:
    """Counts the calls of one worker; used in the event loop alone, so it needs no lock.

    Args:
        limits: the bounds.
        slab: where the counts are shown to the other workers.
    """

    def __init__(self, limits: LimitsConfig, slab: Slab) -> None:
        self.in_flight = 0
        """Unary calls in progress."""
        self.streams = 0
        """Streams open."""
        self.refused_count = 0
        """Calls refused since the start."""
        self.draining = False
        """Whether new calls are turned away because the server is stopping."""
        self._limits = limits
        self._slab = slab
        self._by_client: Counter[str] = Counter()

    def has_room(self, client: str) -> bool:
        """Returns whether ``enter`` would let a call in, for one that ends before the next can begin."""
        limits = self._limits
        if self.draining or self.in_flight >= limits.max_in_flight:
            return False
        return not client or self._by_client[client] < limits.max_in_flight_per_client

    def enter(self, client: str) -> None:
        """Lets a unary call in.

        Raises:
            OverloadedError: too many are in flight, from this client or in all.
            UnavailableError: the server is stopping.
        """
        limits = self._limits
        if self.draining:
            raise UnavailableError("the server is shutting down; retry on another")
        if self.in_flight >= limits.max_in_flight:
            raise self._refusal(f"{self.in_flight} requests are in flight, the limit is {limits.max_in_flight}")
        mine = self._by_client[client] if client else 0
        if mine >= limits.max_in_flight_per_client:
            raise self._refusal(
                f"{mine} requests of yours are in flight, the limit for one client is {limits.max_in_flight_per_client}"
            )
        self.in_flight += 1
        self._slab["in_flight"] = self.in_flight
        if client:
            self._by_client[client] = mine + 1

    def refuse_waiting(self) -> NoReturn:
        """Refuses a call because too many wait for their turn.

        Raises:
            OverloadedError: always.
        """
        raise self._refusal(f"{self._limits.max_waiting} queries wait for their turn, which is the limit")

    def leave(self, client: str) -> None:
        """Takes a unary call out."""
        self.in_flight -= 1
        self._slab["in_flight"] = self.in_flight
        if client and self._by_client[client] <= 1:
            del self._by_client[client]
        elif client:
            self._by_client[client] -= 1

    def enter_stream(self) -> None:
        """Lets a stream in.

        Raises:
            OverloadedError: too many are open.
            UnavailableError: the server is stopping.
        """
        if self.draining:
            raise UnavailableError("the server is shutting down; retry on another")
        if self.streams >= self._limits.max_streams:
            raise self._refusal(f"{self.streams} streams are open, the limit is {self._limits.max_streams}")
        self.streams += 1
        self._slab["streams"] = self.streams

    def leave_stream(self) -> None:
        """Takes a stream out."""
        self.streams -= 1
        self._slab["streams"] = self.streams

    def _refusal(self, what: str) -> OverloadedError:
        self.refused_count += 1
        self._slab["refused_count"] = self.refused_count
        wait_ms = self._limits.retry_after_ms
        return OverloadedError(f"{what}; retry after {wait_ms} ms", metadata={RETRY_AFTER_KEY: str(wait_ms)})
