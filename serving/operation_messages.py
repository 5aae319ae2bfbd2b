"""Operations as messages."""

from datetime import datetime

from serving.operation_state import OperationState
from serving.operations import RefreshAsk
from serving.upserts import check_request_id
from vicinal.codec import encode_time
from vicinal.errors import InvalidArgumentError
from vicinal.v1 import snapshot_service_pb2 as pb
from vicinal.v1 import types_pb2

_ACTIONS = {
    pb.REFRESH_ACTION_UNSPECIFIED: "auto",
    pb.REFRESH_ACTION_ADD: "add",
    pb.REFRESH_ACTION_REBUILD: "rebuild",
}


def decode_ask(request: pb.StartRefreshRequest) -> RefreshAsk:
    """Returns what is asked of a refresh.

    Raises:
        InvalidArgumentError: an unknown action, or a bad request_id.
    """
    check_request_id(request.request_id)
    action = _ACTIONS.get(request.action)
    if action is None:
        raise InvalidArgumentError(f"action {request.action} is not one; see RefreshAction", field="action")
    return RefreshAsk(
        corpora=tuple(dict.fromkeys(request.corpora)),
        action=action,
        prune=request.prune,
        request_id=request.request_id,
    )


def wait_of(request: pb.GetOperationRequest) -> float:
    """Returns the seconds that a request wants to wait, 0 where it says nothing.

    Raises:
        InvalidArgumentError: negative, or no duration.
    """
    seconds = request.wait.seconds + request.wait.nanos / 1e9
    if seconds < 0 or abs(request.wait.nanos) >= 10**9:
        raise InvalidArgumentError(f"wait is {seconds:g} s, wanted at least 0", field="wait")
    return seconds


def encode_operation(state: OperationState) -> types_pb2.Operation:
    """Encodes an operation."""
    failure = state.failure
    return types_pb2.Operation(
        name=state.name,
        verb=state.verb,
        done=state.done,
        progress=state.progress,
        stage=state.stage,
        create_time=encode_time(datetime.fromisoformat(state.created_at)),
        end_time=encode_time(datetime.fromisoformat(state.ended_at)) if state.ended_at else None,
        error=types_pb2.Error(code=failure.code, reason=failure.reason, message=failure.message) if failure else None,
        result=dict(state.result),
    )
