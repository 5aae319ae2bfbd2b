"""What all calls of a worker have in common: who lets them in, who is told of them, and how their handlers look."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from serving.admission import Admission
from serving.config import LimitsConfig
from serving.context import Call

if TYPE_CHECKING:
    from serving.traces import Traces

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Reply: TypeAlias = Message | bytes
Quick: TypeAlias = Callable[[bytes], bytes | None]
"""Answers the bytes of a request at once with those of the reply; None where the coroutine must."""
AtOnce: TypeAlias = "Callable[[bytes, Context], bytes | None]"
"""The same for a call that must still be let in and counted."""
AT_ONCE = "at_once"
"""Attribute of a handler that holds its ``AtOnce``, or None."""
OTHERWISE = "otherwise"
"""Attribute of a handler that holds the coroutine function for what was not answered at once."""
REQUEST_ID_KEY = "x-request-id"


def waited_s(context: Any) -> float:
    """Returns how long a call has waited for its turn; 0 where nothing waits, or nobody can know."""
    waited: float = getattr(context, "waited_s", 0.0)
    return waited


class Gatekeeper(Protocol):
    """Says who calls, and whether they may."""

    def admit(self, method: str, context: Context) -> str:
        """Returns the name of the client.

        Raises:
            UnauthenticatedError: no valid key.
            PermissionDeniedError: the key does not allow this method.
        """


class Observer(Protocol):
    """Is told of every call."""

    def observe(self, call: Call, code: int, seconds: float) -> None:
        """Takes note of a call that ended, with its status code (0 for OK) and duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What all calls of a worker share."""

    admission: Admission
    """Bounds what is in flight."""
    gatekeeper: Gatekeeper
    """Knows the callers."""
    observers: tuple[Observer, ...]
    """Are told of every call."""
    limits: LimitsConfig
    """Say how long a call may take that came without a deadline."""
    identify: bool = False
    """Whether every call needs its request id, as an access log does; else only failed ones have one."""
    traces: "Traces | None" = None
    """Trace calls; None traces none."""
    secrets: tuple[tuple[str, str], ...] = ()
    """Texts that no message may hold, and what stands for them, such as the path of the workspace."""
