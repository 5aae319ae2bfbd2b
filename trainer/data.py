"""Batches of row numbers and images, each a function of seed and step alone.

So a run that is resumed at a step sees what an uninterrupted one would have seen, whatever was
prefetched when it was killed, and the images of a step do not depend on the number of processes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from trainer.device import resident
from trainer.distributed import rank, world_size
from vicinal.errors import InvalidCorpusError
from vicinal.types import I64Array, U8Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """This process's share of a step's images."""

    x_BCHW: torch.Tensor
    """uint8."""
    rows_B: torch.Tensor
    """Row numbers, int64."""
    step: int
    """Number of the step, from 0."""


class Sampler:
    """Which images a step takes: every image once an epoch, in an order drawn for each epoch.

    Args:
        count: images, N, at least 1.
        batch_size: images in a step over all processes; N where there are fewer.
        seed: of the orders.
        processes: the batch is rounded down to a multiple of them.

    Raises:
        InvalidCorpusError: there is less than one image for each process.
    """

    def __init__(self, *, count: int, batch_size: int, seed: int, processes: int = 1) -> None:
        self.count = count
        self.batch_size = min(batch_size, count) // processes * processes
        if self.batch_size < 1:
            raise InvalidCorpusError(
                f"{count} images in batches of {batch_size} are too few for {processes} processes; use fewer --devices"
            )
        self.steps_per_epoch = count // self.batch_size
        self._seed = seed
        self._order: tuple[int, I64Array] | None = None

    def rows(self, step: int) -> I64Array:
        """Returns the row numbers of a step, int64."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng([self._seed, epoch]).permutation(self.count)
            self._order = (epoch, order.astype(np.int64))
        start = place * self.batch_size
        return self._order[1][start : start + self.batch_size]


class StepLoader:
    """Endless batches from a step on, this process's share of each.

    Args:
        x_NCHW: images, uint8, perhaps memory-mapped.
        sampler: which images a step takes; its batches must divide by the number of processes.
        first_step: says where to begin; asked when iteration begins.
        device: says where the images are needed; asked when iteration begins. On a GPU with room for all of them they
            are copied there once.
        prefetch: read the next batch in a thread while the last one is worked on.
    """

    def __init__(
        self,
        x_NCHW: U8Array,
        sampler: Sampler,
        *,
        first_step: Callable[[], int],
        device: Callable[[], torch.device] = lambda: torch.device("cpu"),
        prefetch: bool = True,
    ) -> None:
        self._x_NCHW = x_NCHW
        self._sampler = sampler
        self._first_step = first_step
        self._device = device
        self._prefetch = prefetch
        self._resident: torch.Tensor | None = None

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches without end."""
        step = self._first_step()
        self._resident = resident(self._x_NCHW, self._device())
        if self._resident is not None or not self._prefetch:
            while True:
                yield self.batch(step)
                step += 1
        with ThreadPoolExecutor(max_workers=1) as pool:
            future = pool.submit(self.batch, step)
            while True:
                batch = future.result()
                step += 1
                future = pool.submit(self.batch, step)
                yield batch

    def batch(self, step: int) -> Batch:
        """Returns this process's share of a step."""
        rows_B = self._sampler.rows(step)
        share = len(rows_B) // world_size()
        rows_B = rows_B[rank() * share : (rank() + 1) * share]
        rows = torch.from_numpy(rows_B)
        if self._resident is None:
            return Batch(x_BCHW=torch.from_numpy(self._x_NCHW[rows_B]), rows_B=rows, step=step)
        return Batch(x_BCHW=self._resident[rows.to(self._resident.device)], rows_B=rows, step=step)
