"""Lays what UpsertItems and DeleteItems changed over the open snapshots, and writes such changes.

One thread of a worker does all of it, so that the log is read and written in order, and neither the
event loop nor the opening of a snapshot waits for a disk.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from index.delta import Delta
from index.delta_writes import Write
from index.live import LiveSnapshot, folded_number
from serving.generation import Generation
from vicinal.codec import encode_ref
from vicinal.errors import FailedPreconditionError
from vicinal.store import Store

T = TypeVar("T")
logger = logging.getLogger(__name__)
_QUICK_FLOATS = 1 << 19
"""Pending items x D up to which a query stays quick: they are scanned in some tens of microseconds."""


class Tails:
    """The changes of each space of embeddings that is open in this worker.

    Args:
        store: the workspace.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deltas: dict[str, tuple[int, Delta]] = {}
        self._keeper = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tail")

    async def dress(self, generation: Generation, *, beside: Iterable[Generation] = ()) -> Generation:
        """Returns a generation with every change that is on disk.

        Args:
            generation: with some changes or none.
            beside: other open generations, whose changes are kept in memory too.

        Raises:
            CorruptArtifactError: the log is damaged.
            FailedPreconditionError: changes that the snapshot lacks were dropped.
        """
        lowest = min((folded_number(one.base) for one in (generation, *beside) if _same(one, generation)), default=0)
        return await self._run(lambda: self._with(generation, lowest, lambda delta: _laid(generation, delta)))

    async def write(self, generation: Generation, writes: Sequence[Write]) -> list[int]:
        """Writes changes with one flush; see ``Delta.write``."""
        table, number = generation.base.items, folded_number(generation.base)

        def write(delta: Delta) -> list[int]:
            return delta.write(writes, known=lambda name: table.find(name) is not None)

        return await self._run(lambda: self._with(generation, number, write))

    async def has_news(self, generation: Generation) -> bool:
        """Returns whether there are changes that a generation lacks."""
        number = folded_number(generation.base)

        def look(delta: Delta) -> bool:
            delta.catch_up()
            live = generation.snapshot
            return delta.number > generation.ref.delta_number or (
                isinstance(live, LiveSnapshot) and live.epoch != delta.epoch
            )

        return await self._run(lambda: self._with(generation, number, look))

    def lags(self, generation: Generation) -> bool:
        """Returns whether this worker knows of changes that a generation lacks."""
        known = self._deltas.get(generation.ref.fingerprint)
        return known is not None and known[1].number > generation.ref.delta_number

    def release(self, generations: Iterable[Generation]) -> None:
        """Forgets the changes that none of some generations lacks, once they are looked at again."""
        lowest: dict[str, int] = {}
        for one in generations:
            number = folded_number(one.base)
            lowest[one.ref.fingerprint] = min(number, lowest.get(one.ref.fingerprint, number))
        self._deltas = {
            name: known for name, known in self._deltas.items() if name in lowest and known[0] >= lowest[name]
        }

    def close(self) -> None:
        """Ends the thread; writes that wait are given up."""
        self._keeper.shutdown(wait=False, cancel_futures=True)

    def _with(self, generation: Generation, lowest: int, use: Callable[[Delta], T]) -> T:
        try:
            return use(self._delta(generation, lowest))
        except FailedPreconditionError:
            # Changes were dropped that a snapshot lacked which is not open any more.
            self._deltas.pop(generation.ref.fingerprint, None)
            return use(self._delta(generation, folded_number(generation.base)))

    def _delta(self, generation: Generation, lowest: int) -> Delta:
        snapshot = generation.base
        known = self._deltas.get(snapshot.fingerprint)
        if known is None or known[0] > lowest:
            delta = Delta(
                self._store,
                fingerprint=snapshot.fingerprint,
                dimension=snapshot.dimension,
                metric=snapshot.metric,
                after=lowest,
            )
            self._deltas[snapshot.fingerprint] = (lowest, delta)
            return delta
        return known[1]

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._keeper, function)


def _same(one: Generation, other: Generation) -> bool:
    return one.ref.fingerprint == other.ref.fingerprint


def _laid(generation: Generation, delta: Delta) -> Generation:
    delta.catch_up()
    base, folded = generation.base, folded_number(generation.base)
    before = generation.snapshot if isinstance(generation.snapshot, LiveSnapshot) else None
    if before is not None and before.epoch != delta.epoch:
        before = None
    number = max(folded, delta.number)
    if number == generation.ref.delta_number and (before is not None or delta.number <= folded):
        return generation
    ref = replace(generation.ref, delta_number=number)
    message = encode_ref(ref)
    if delta.number <= folded:
        return replace(generation, snapshot=base, ref=ref, ref_message=message, quick=generation.base_quick)
    live = LiveSnapshot(base, delta.tail(after=folded, since=before.number if before else None), before=before)
    quick = generation.base_quick and live.added_count * live.dimension <= _QUICK_FLOATS
    return replace(generation, snapshot=live, ref=ref, ref_message=message, quick=quick)
