"""A worker's place among the workers of one port: it counts its calls, and swaps together with them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index.live import pending_count
from serving.board import Board, Slab
from serving.context import Call
from serving.generation import Generation
from serving.handover import Handover, Seat
from serving.worker import core_count
from vicinal.types import SnapshotRef

_SWAP_WAIT_S = 5.0
_LOOK_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker stands on the board."""

    board: Board
    """Memory shared with the other workers."""
    number: int
    """Number of this worker, from 0."""
    life_fd: int | None = None
    """End of a pipe that closes when the supervisor is gone; None when there is none."""
    handover: Handover | None = None
    """Evens connections out between the workers; None for one worker."""

    @property
    def slab(self) -> Slab:
        """This worker's part of the board."""
        return self.board.slab(self.number)

    def seat(self) -> Seat | None:
        """Returns this worker's part of the handover, None where there is none."""
        if self.handover is None:
            return None
        return self.handover.seat(self.number, lambda number: bool(self.board.slab(number)["live"]))

    @property
    def has_spare_core(self) -> bool:
        """Whether there are more cores than workers."""
        return core_count() > self.board.worker_count

    def observe(self, call: Call, code: int, seconds: float) -> None:
        """Counts a call."""
        self.slab.count(call.method, code, seconds)

    async def ready(self, number: int) -> None:
        """Says that this worker could swap, and waits until all can, or a short while."""
        self.slab["ready_generation"] = number
        await self._wait(lambda slab: max(slab["ready_generation"], slab["failed_generation"]) >= number)

    def failed(self, number: int) -> None:
        """Says that this worker cannot swap."""
        self.slab["failed_generation"] = number

    def swapped(self, ref: SnapshotRef) -> None:
        """Says that this worker has swapped."""
        slab = self.slab
        slab["ready_generation"] = slab["served_generation"] = ref.generation
        slab["served_snapshot"] = int(ref.name.rpartition("/")[2])
        slab.add("swap_count")

    async def all_swapped(self, number: int) -> None:
        """Waits until all workers have swapped, or a short while."""
        await self._wait(lambda slab: max(slab["served_generation"], slab["failed_generation"]) >= number)

    def show_memory(self) -> None:
        """Puts the resident memory of this process on the board, where the system tells it."""
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return
        self.slab["resident_bytes"] = pages * 4096

    def show_changes(self, generation: Generation) -> None:
        """Puts on the board how much came after the snapshot that is served."""
        self.slab["delta_number"] = generation.ref.delta_number
        self.slab["pending_items"] = pending_count(generation.snapshot)

    async def _wait(self, done: Callable[[Slab], bool]) -> None:
        # A worker that is starting is not live: it opens the newest snapshot before it answers.
        others = [slab for place, slab in enumerate(self.board.slabs()) if place != self.number]
        deadline_s = time.monotonic() + _SWAP_WAIT_S
        while any(slab["live"] and not done(slab) for slab in others) and time.monotonic() < deadline_s:
            await asyncio.sleep(_LOOK_S)
