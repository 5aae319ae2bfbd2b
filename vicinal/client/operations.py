"""The calls of SnapshotService that concern long-running operations."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from vicinal.client.call import Call
from vicinal.codec import decode_error
from vicinal.errors import VicinalError
from vicinal.v1 import snapshot_service_pb2 as pb
from vicinal.v1 import types_pb2

_SERVICE = "/vicinal.v1.SnapshotService"
_ACTIONS = {
    "auto": pb.REFRESH_ACTION_UNSPECIFIED,
    "add": pb.REFRESH_ACTION_ADD,
    "rebuild": pb.REFRESH_ACTION_REBUILD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A long-running job of the server."""

    name: str
    """Such as ``operations/refresh-000003``."""
    verb: str
    """What it does, such as ``refresh``."""
    done: bool
    """Whether it has ended."""
    progress: float
    """Share of the work that is done, in [0, 1]; a guess by the stage."""
    stage: str
    """What it is doing, for people."""
    create_time: datetime
    """When it was started, UTC."""
    end_time: datetime | None
    """When it ended; None while it runs."""
    error: VicinalError | None
    """Why it did not succeed; None otherwise."""
    result: Mapping[str, str] = field(default_factory=dict)
    """Results by name, such as ``snapshot``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationPage:
    """Some operations, newest first."""

    operations: list[Operation]
    """The operations."""
    next_page_token: str
    """Empty on the last page."""


def start_refresh(
    corpora: Sequence[str] = (),
    *,
    action: Literal["auto", "add", "rebuild"] = "auto",
    prune: bool = False,
    request_id: str = "",
    timeout_s: float | None = None,
) -> Call[Operation]:
    """Starts a refresh on the server; ``get_operation`` says how it goes.

    Args:
        corpora: names that the server's configuration gives its corpora; none for all of them.
        action: add to the index, build it anew, or decide by the drift report.
        prune: drop items that vanished from their corpus.
        request_id: repeating a request with the same id returns the first one's operation. Default: a new one.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: a corpus that the server's configuration does not name.
        FailedPreconditionError: another refresh is running (its name is in the metadata), or none is allowed.
    """
    return Call(
        method=f"{_SERVICE}/StartRefresh",
        request=pb.StartRefreshRequest(
            corpora=corpora, action=_ACTIONS[action], prune=prune, request_id=request_id or uuid.uuid4().hex
        ),
        response=pb.StartRefreshResponse,
        decode=lambda reply: _operation(reply.operation),
        timeout_s=timeout_s,
    )


def get_operation(name: str, *, wait_s: float = 0, timeout_s: float | None = None) -> Call[Operation]:
    """Returns an operation, at once or when it has ended.

    Args:
        name: such as ``operations/refresh-000003``.
        wait_s: seconds to wait for its end, at most the time of the call.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        NotFoundError: no such operation.
    """
    request = pb.GetOperationRequest(name=name)
    request.wait.FromNanoseconds(int(wait_s * 1e9))
    return Call(
        method=f"{_SERVICE}/GetOperation",
        request=request,
        response=pb.GetOperationResponse,
        decode=lambda reply: _operation(reply.operation),
        timeout_s=timeout_s,
    )


def list_operations(
    *, page_size: int = 100, page_token: str = "", timeout_s: float | None = None
) -> Call[OperationPage]:
    """Lists operations, newest first.

    Args:
        page_size: entries a page, 1 to 1,000; larger is cut.
        page_token: from the page before.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: page_size is negative, or a token this server did not give.
    """
    return Call(
        method=f"{_SERVICE}/ListOperations",
        request=pb.ListOperationsRequest(page_size=page_size, page_token=page_token),
        response=pb.ListOperationsResponse,
        decode=lambda reply: OperationPage(
            operations=[_operation(one) for one in reply.operations], next_page_token=reply.next_page_token
        ),
        timeout_s=timeout_s,
    )


def cancel_operation(name: str, *, timeout_s: float | None = None) -> Call[Operation]:
    """Asks an operation to stop, and returns when it has; what is served does not change.

    Args:
        name: such as ``operations/refresh-000003``.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        NotFoundError: no such operation.
    """
    return Call(
        method=f"{_SERVICE}/CancelOperation",
        request=pb.CancelOperationRequest(name=name),
        response=pb.CancelOperationResponse,
        decode=lambda reply: _operation(reply.operation),
        timeout_s=timeout_s,
    )


def _operation(message: types_pb2.Operation) -> Operation:
    return Operation(
        name=message.name,
        verb=message.verb,
        done=message.done,
        progress=message.progress,
        stage=message.stage,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        end_time=message.end_time.ToDatetime(tzinfo=UTC) if message.HasField("end_time") else None,
        error=decode_error(message.error) if message.HasField("error") else None,
        result=dict(message.result),
    )
