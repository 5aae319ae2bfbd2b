"""What a caller is told of a failure: one clear error, and nothing of the server's insides."""

import logging
from collections.abc import Sequence

from serving.context import Call
from vicinal.errors import InternalError, VicinalError

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
