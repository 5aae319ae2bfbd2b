"""Memory that the workers of a supervisor share: what each serves, and what it has counted.

Each worker writes its own slab and reads the others', so there are no locks. A slab outlives its
worker: counters go on where they were when a dead worker is started again.
"""

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

GAUGES = (
    "live",
    "ready_generation",
    "served_generation",
    "failed_generation",
    "served_snapshot",
    "in_flight",
    "streams",
    "waiting",
    "refused_count",
    "swap_count",
    "delta_number",
    "pending_items",
    "recall",
    "recall_time_s",
    "resident_bytes",
    "cache_hit_count",
    "cache_miss_count",
    "batched_image_count",
    "image_batch_count",
    "start_count",
    "start_time_s",
)
"""Numbers of each worker, float64."""
_INDEX = {name: place for place, name in enumerate(GAUGES)}
BOUNDS_S = tuple(base * 10.0**power for power in range(-5, 2) for base in (1.0, 2.0, 5.0))
"""Upper bounds of the latency histogram's buckets, seconds."""
CODE_COUNT = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted of one RPC, over all workers."""

    by_code: list[int]
    """Calls by status code, 0 is OK."""
    buckets: list[int]
    """Calls by latency; one more than ``BOUNDS_S``."""
    seconds: float
    """Sum of the latencies."""


class Board:
    """The shared memory; made before the workers are forked.

    Args:
        worker_count: slabs, at least 1.
        methods: full names of the RPCs.
    """

    def __init__(self, worker_count: int, methods: Sequence[str]) -> None:
        self.worker_count = worker_count
        self.methods = tuple(methods)
        self._places = {name: place for place, name in enumerate(self.methods)}
        self._row = CODE_COUNT + len(BOUNDS_S) + 1
        self._gauge_bytes = 8 * (len(GAUGES) + len(self.methods))
        self._slab_bytes = self._gauge_bytes + 8 * self._row * len(self.methods)
        self._memory = memoryview(mmap.mmap(-1, max(1, worker_count) * self._slab_bytes))
        self._slabs = [self._slab(worker) for worker in range(worker_count)]

    def slab(self, worker: int) -> "Slab":
        """Returns the slab of a worker."""
        assert 0 <= worker < self.worker_count, worker
        return self._slabs[worker]

    def _slab(self, worker: int) -> "Slab":
        start = worker * self._slab_bytes
        return Slab(
            gauges=self._memory[start : start + self._gauge_bytes].cast("d"),
            counts=self._memory[start + self._gauge_bytes : start + self._slab_bytes].cast("q"),
            places=self._places,
            row=self._row,
        )

    def slabs(self) -> "list[Slab]":
        """Returns every worker's slab."""
        return list(self._slabs)

    def total(self, gauge: str) -> float:
        """Returns the sum of a gauge over the live workers."""
        return sum(slab[gauge] for slab in self.slabs() if slab["live"])

    def counts(self, method: str) -> Counts:
        """Returns what all workers counted of an RPC."""
        rows = [slab.read(method) for slab in self.slabs()]
        sums = [sum(column) for column in zip(*(row for row, _ in rows), strict=True)]
        return Counts(by_code=sums[:CODE_COUNT], buckets=sums[CODE_COUNT:], seconds=sum(seconds for _, seconds in rows))


class Slab:
    """One worker's part of the board."""

    def __init__(
        self, *, gauges: "memoryview[float]", counts: "memoryview[int]", places: dict[str, int], row: int
    ) -> None:
        self._gauges = gauges
        self._counts = counts
        self._places = places
        self._row = row

    def __getitem__(self, gauge: str) -> float:
        return self._gauges[_INDEX[gauge]]

    def __setitem__(self, gauge: str, value: float) -> None:
        self._gauges[_INDEX[gauge]] = value

    def add(self, gauge: str, value: float = 1) -> None:
        """Adds to a gauge of this worker."""
        self._gauges[_INDEX[gauge]] += value

    def count(self, method: str, code: int, seconds: float) -> None:
        """Counts a call that ended.

        Args:
            method: full name of the RPC.
            code: status code, 0 for OK.
            seconds: how long it took.
        """
        place = self._places.get(method)
        if place is None:
            return
        start = place * self._row
        self._counts[start + (code if 0 <= code < CODE_COUNT else 2)] += 1
        self._counts[start + CODE_COUNT + bisect_left(BOUNDS_S, seconds)] += 1
        self._gauges[len(GAUGES) + place] += seconds

    def read(self, method: str) -> tuple[list[int], float]:
        """Returns the counts by code and bucket, and the sum of seconds, of an RPC."""
        place = self._places[method]
        start = place * self._row
        return self._counts[start : start + self._row].tolist(), self._gauges[len(GAUGES) + place]
