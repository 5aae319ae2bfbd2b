"""What a servicer is given: the generations, the configuration, the store, queries, and a place to work.

A servicer is a class ``XServicer(context)`` in ``serving/servicers/`` with one coroutine for each
RPC: ``async def Search(self, request, call) -> reply``. It decodes, calls and encodes; it raises
``VicinalError`` and never touches gRPC. A streaming RPC is an asynchronous generator that takes an
asynchronous iterator of requests. A reply may also be the serialized bytes of the message.
"""

import asyncio
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from serving.config import ServeConfig
from serving.generations import Generations
from serving.queries import Queries
from vicinal.errors import CancelledError, DeadlineExceededError
from vicinal.store import Store

if TYPE_CHECKING:
    from serving.place import Place
    from serving.traces import Trace

P = ParamSpec("P")
T = TypeVar("T")
_UNTRACED = nullcontext()


@dataclass(slots=True, kw_only=True)
class Call:
    """One call in progress."""

    method: str
    """Full name, such as ``/vicinal.v1.SearchService/Search``."""
    request_id: str
    """Goes into the log, and back to the client as ``x-request-id``."""
    client: str
    """Id of the key, name in the client certificate, or address of the caller."""
    deadline_s: float
    """``time.monotonic()`` at which the answer is of no more use."""
    cancelled: bool = False
    """Whether the caller has hung up."""
    notes: dict[str, str | int | float] = field(default_factory=dict)
    """What the access log should say of this call besides."""

    trace: "Trace | None" = None
    """Its span; None when it is not traced."""

    def part(self, name: str) -> AbstractContextManager[None]:
        """Measures a part of the work, where the call is traced; see ``serving.traces``."""
        return _UNTRACED if self.trace is None else self.trace.part(name)

    def check(self) -> None:
        """Gives up if nobody waits for the answer any more; called before and between the parts of the work.

        Raises:
            DeadlineExceededError: the deadline has passed.
            CancelledError: the caller has hung up.
        """
        if self.cancelled:
            raise CancelledError("the caller has hung up")
        if time.monotonic() >= self.deadline_s:
            raise DeadlineExceededError("the deadline passed before the answer; ask for less or wait longer")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingContext:
    """What every servicer works with."""

    generations: Generations
    """What is being served: ``current()``, or ``await take(name)`` for a pinned snapshot."""
    config: ServeConfig
    """The resolved configuration."""
    store: Store
    """The workspace."""
    queries: Queries
    """Turns Query messages into vectors: ``resolve(generation, queries, call)``."""
    place: "Place"
    """Where this worker stands among those of its port."""
    pool: ThreadPoolExecutor
    """Threads for work that takes over about a millisecond."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in a thread, so that other calls go on meanwhile.

        Args:
            function: what to run; it must not touch the event loop.
            args: its arguments.
            kwargs: its arguments by name.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, functools.partial(function, *args, **kwargs))
