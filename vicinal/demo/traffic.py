"""A client that keeps asking while a snapshot is swapped, and checks every reply afterwards."""

import threading
import time
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from vicinal.client import Client
from vicinal.errors import VicinalError
from vicinal.types import F32Array

NEIGHBOR_COUNT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one query got."""

    query: int
    snapshot: str
    generation: int
    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    latency_s: float


@dataclass(slots=True)
class Traffic:
    """One caller, asking as fast as it is answered, in a thread of its own.

    Args:
        address: the server.
        x_QD: queries to ask in turn, float32 (Q, D).
    """

    address: str
    x_QD: F32Array
    replies: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask, name="traffic")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait_for(self, snapshot: str, *, timeout_s: float) -> bool:
        """Waits until a reply names the snapshot; returns whether one did in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.replies and self.replies[-1].snapshot == snapshot:
                return True
            time.sleep(0.02)
        return False

    def _ask(self) -> None:
        with Client(self.address) as client:
            number = 0
            while not self._stop.is_set():
                query = number % len(self.x_QD)
                number += 1
                started = time.perf_counter()
                try:
                    found = client.search(self.x_QD[query], neighbor_count=NEIGHBOR_COUNT)
                except VicinalError as error:
                    self.failures.append(f"{error.reason}: {error.message}")
                    continue
                self.replies.append(
                    Reply(
                        query=query,
                        snapshot=found.snapshot.name,
                        generation=found.snapshot.generation,
                        item_ids=tuple(found.item_ids),
                        scores=tuple(float(score) for score in found.scores),
                        latency_s=time.perf_counter() - started,
                    )
                )


def count_wrong(replies: list[Reply], *, snapshot: str, address: str, x_QD: F32Array) -> int:
    """Counts the replies of one snapshot that differ from what that snapshot gives on its own.

    Args:
        replies: all replies.
        snapshot: the ones that name this snapshot are checked.
        address: a server that serves this snapshot and no other.
        x_QD: the queries.

    Returns:
        Replies whose ids differ other than by a tie, or whose scores differ by more than 1e-5.
    """
    distinct = {(r.query, r.item_ids, r.scores) for r in replies if r.snapshot == snapshot}
    wrong = set()
    with Client(address) as client:
        alone = {
            query: client.search(x_QD[query], neighbor_count=NEIGHBOR_COUNT) for query in {key[0] for key in distinct}
        }
    for key in distinct:
        query, item_ids, scores = key
        wanted = alone[query]
        same_scores = len(scores) == len(wanted.scores) and np.allclose(scores, wanted.scores, atol=1e-5)
        same_ids = all(
            a == b or np.isclose(score, wanted.scores[-1], atol=1e-5) or scores.count(score) > 1
            for a, b, score in zip(item_ids, wanted.item_ids, scores, strict=False)
        )
        if not (same_scores and same_ids):
            wrong.add(key)
    return sum((r.query, r.item_ids, r.scores) in wrong for r in replies if r.snapshot == snapshot)
