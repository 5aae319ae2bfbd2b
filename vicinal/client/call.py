"""One description of each method, from which both clients make theirs.

A method is a function that builds a ``Call``: the request, where it goes, and how its reply is
decoded. ``sync_method`` and ``async_method`` turn that function into a method of a client.
"""

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from google.protobuf.message import Message

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One call, ready to be sent."""

    method: str
    """Full name, such as ``/vicinal.v1.SearchService/Search``."""
    request: Message | bytes
    """What is sent: a message, or what its bytes are."""
    response: type[Message]
    """Message class of the reply."""
    decode: Callable[[Any], T_co]
    """Turns the reply into what the caller gets."""
    timeout_s: float | None = None
    """Seconds to wait for the answer, retries included; None takes the client's."""
    requests: Sequence[Message] | None = None
    """All that is sent, of a call that sends a stream; ``request`` is then the first of them."""
    streamed: bool = False
    """The reply is a stream; ``decode`` gets all of it as a list."""
    retry: bool = True
    """Whether it may be sent again when the server was UNAVAILABLE; false for what must not happen twice."""


def serialized(request: Message | bytes) -> bytes:
    """Returns the bytes of a request."""
    return request if isinstance(request, bytes) else request.SerializeToString()


class SyncCaller(Protocol):
    """Sends a call and waits."""

    def call(self, call: Call[T]) -> T:
        """Returns the decoded reply."""


class AsyncCaller(Protocol):
    """Sends a call."""

    async def call(self, call: Call[T]) -> T:
        """Returns the decoded reply."""


def sync_method(build: Callable[P, Call[T]]) -> Callable[Concatenate[SyncCaller, P], T]:
    """Makes a method of the blocking client.

    Args:
        build: builds the call from the method's arguments; its docstring becomes the method's.
    """

    @functools.wraps(build)
    def method(self: SyncCaller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(build(*args, **kwargs))

    return method


def async_method(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncCaller, P], Awaitable[T]]:
    """Makes a method of the asyncio client.

    Args:
        build: builds the call from the method's arguments; its docstring becomes the method's.
    """

    @functools.wraps(build)
    async def method(self: AsyncCaller, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.call(build(*args, **kwargs))

    return method
