"""How the workers of one port agree on a swap."""

from typing import Protocol

from vicinal.types import SnapshotRef


class Together(Protocol):
    """Lets the workers of one port swap together."""

    async def ready(self, number: int) -> None:
        """Says that this worker could swap, and waits until all can, or a short while."""

    def failed(self, number: int) -> None:
        """Says that this worker cannot swap."""

    def swapped(self, ref: SnapshotRef) -> None:
        """Says that this worker has swapped."""

    async def all_swapped(self, number: int) -> None:
        """Waits until all workers have swapped, or a short while."""
