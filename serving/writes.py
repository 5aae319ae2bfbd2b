"""Writes changes of items; those that come while others are flushed to the disk are flushed together."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from index.delta_writes import Write
from serving.context import Call
from serving.generation import Generation
from serving.generations import Generations
from vicinal.errors import FingerprintMismatchError

_MOST_AT_ONCE = 64
_MOST_BYTES = 64 * 2**20
"""Embeddings that are flushed together; a single request may have more."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    generation: Generation
    write: Write
    done: "asyncio.Future[tuple[int, Generation]]"


class Writer:
    """Writes for the calls of one worker; used in the event loop alone.

    Args:
        generations: what is being served.
    """

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._waiting: deque[_Waiting] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def write(self, generation: Generation, write: Write, call: Call) -> tuple[int, Generation]:
        """Writes a change and serves it; when this returns it is on disk.

        Args:
            generation: for whose space of embeddings it is.
            write: the change.
            call: whose deadline is checked before.

        Returns:
            The number of items that it changed, and a generation that holds it.

        Raises:
            FingerprintMismatchError: a snapshot of another space is served now; beside the one before the change may
                have been made.
            StorageError: the disk is full; nothing has changed.
            DeadlineExceededError: the deadline has passed; nothing has changed.
        """
        call.check()
        done: asyncio.Future[tuple[int, Generation]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(generation=generation, write=write, done=done))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._flush())
        return await done

    async def _flush(self) -> None:
        while batch := self._take():
            try:
                counts, generation = await _write(self._generations, [waiting.write for waiting in batch], batch[0])
            except Exception as error:  # noqa: BLE001 - it is raised in every call that waits
                for waiting in batch:
                    with contextlib.suppress(asyncio.InvalidStateError):
                        waiting.done.set_exception(error)
                continue
            for waiting, count in zip(batch, counts, strict=True):
                with contextlib.suppress(asyncio.InvalidStateError):
                    waiting.done.set_result((count, generation))

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < _MOST_AT_ONCE:
            waiting = self._waiting[0]
            size += 0 if waiting.write.x_MD is None else waiting.write.x_MD.nbytes
            if batch and (size > _MOST_BYTES or not _together(waiting, batch[0])):
                break
            self._waiting.popleft()
            if not waiting.done.cancelled():
                # What nobody waits for any more is not written.
                batch.append(waiting)
        return batch


def _together(one: _Waiting, other: _Waiting) -> bool:
    return one.generation.ref.fingerprint == other.generation.ref.fingerprint


async def _write(generations: Generations, writes: Sequence[Write], first: _Waiting) -> tuple[list[int], Generation]:
    current = generations.current()
    _check_space(current, first)
    counts = await generations.tails.write(current, writes)
    served = await generations.catch_up()
    # Written beside a snapshot that went out of service is not what was asked for; sent again it is.
    _check_space(served, first)
    return counts, served


def _check_space(served: Generation, first: _Waiting) -> None:
    if served.ref.fingerprint != first.generation.ref.fingerprint:
        raise FingerprintMismatchError(
            f"{served.ref.name} of another encoder went into service meanwhile; send the items again"
        )
