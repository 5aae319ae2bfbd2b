"""What a caller is told of a failure: one clear error, and nothing of the server's insides."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from serving.context import Call
from vicinal.errors import InternalError, UnimplementedError, VicinalError

logger = logging.getLogger(__name__)
_MAX_TEXT = 1024


def bug_of(error: BaseException, call: Call) -> VicinalError:
    """Logs an error that is no caller's fault, and returns what the caller is told of it.

    Args:
        error: what was raised.
        call: the call that failed, with its request id.

    Raises:
        BaseException: the error itself, where it is no error of a call, such as KeyboardInterrupt.
    """
    if not isinstance(error, Exception):
        raise error
    logger.error("%s failed, request id %s", call.method, call.request_id, exc_info=error)
    return InternalError(
        f"a bug in the server; its log has the details under request id {call.request_id}",
        metadata={"request_id": call.request_id},
    )


def without_secrets(error: VicinalError, secrets: Sequence[tuple[str, str]]) -> VicinalError:
    """Returns the same error with texts that no message may hold replaced.

    Args:
        error: the error.
        secrets: texts and what stands for them.
    """
    message = error.message
    for secret, stand_in in secrets:
        message = message.replace(secret, stand_in)
    return type(error)(message, metadata=error.metadata, field=error.field)


def one_line(text: str) -> str:
    """Returns a text as a status message: short and on one line."""
    return text[:_MAX_TEXT].replace("\n", " ")


def _refusal(name: str) -> UnimplementedError:
    return UnimplementedError(f"this server does not answer {name.rpartition('/')[2]} yet; see docs/api.md")


def unimplemented(name: str) -> Callable[[Any, Call], Awaitable[Message]]:
    """Returns what refuses an RPC that the server lacks.

    Args:
        name: full name of the RPC.
    """

    async def refuse(request: Any, call: Call) -> Message:  # noqa: ARG001 - the shape of a servicer's method
        raise _refusal(name)

    return refuse


def unimplemented_stream(name: str) -> Callable[[Any, Call], AsyncIterator[Message]]:
    """Returns what refuses an RPC with a stream of answers that the server lacks.

    Args:
        name: full name of the RPC.
    """

    async def refuse(requests: Any, call: Call) -> AsyncIterator[Message]:  # noqa: ARG001 - the shape of a method
        nothing: tuple[Message, ...] = ()
        for reply in nothing:
            yield reply
        raise _refusal(name)

    return refuse
