"""How arrays, scores and errors look on the wire; server and clients share it.

Vectors travel as packed little-endian float32. An error travels as google.rpc.Status with ErrorInfo
(reason, domain, metadata), BadRequest (field) and RetryInfo, and comes back as the same class.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from vicinal.errors import (
    ERROR_DOMAIN,
    AlreadyExistsError,
    CancelledError,
    Code,
    ConflictError,
    CorruptArtifactError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    InvalidVectorError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    VicinalError,
    by_reason,
)
from vicinal.types import F32Array, Metric, SnapshotRef
from vicinal.v1 import types_pb2

Scalar: TypeAlias = bool | int | float | str | datetime | None
"""A metadata value."""
STATUS_KEY = "grpc-status-details-bin"
"""Trailing metadata in which the google.rpc.Status travels."""
RETRY_AFTER_KEY = "retry_after_ms"
"""Metadata of an error that says when to come back; travels as RetryInfo."""
_MAX_TEXT = 1024
_MAX_VALUE = 256
_F32 = np.dtype("<f4")

_BY_CODE: Mapping[int, type[VicinalError]] = {
    Code.CANCELLED: CancelledError,
    Code.INVALID_ARGUMENT: InvalidArgumentError,
    Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    Code.NOT_FOUND: NotFoundError,
    Code.ALREADY_EXISTS: AlreadyExistsError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.RESOURCE_EXHAUSTED: OverloadedError,
    Code.FAILED_PRECONDITION: FailedPreconditionError,
    Code.ABORTED: ConflictError,
    Code.OUT_OF_RANGE: InvalidArgumentError,
    Code.UNIMPLEMENTED: UnimplementedError,
    Code.INTERNAL: InternalError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DATA_LOSS: CorruptArtifactError,
    Code.UNAUTHENTICATED: UnauthenticatedError,
}
_METRICS: Mapping[Metric, "types_pb2.Metric.ValueType"] = {
    Metric.COSINE: types_pb2.METRIC_COSINE,
    Metric.INNER_PRODUCT: types_pb2.METRIC_INNER_PRODUCT,
    Metric.L2: types_pb2.METRIC_L2,
}


def pack(x: npt.ArrayLike) -> bytes:
    """Returns numbers as packed little-endian float32."""
    return np.ascontiguousarray(x, dtype=_F32).tobytes()


def encode_vector(x_D: npt.ArrayLike) -> types_pb2.Vector:
    """Encodes one embedding.

    Args:
        x_D: numbers, shape (D,).

    Raises:
        InvalidVectorError: not one-dimensional, or empty.
    """
    array = np.asarray(x_D, dtype=_F32)
    if array.ndim != 1 or not array.size:
        raise InvalidVectorError(f"a vector has shape (D,) with D at least 1, got {array.shape}")
    return types_pb2.Vector(packed=array.tobytes(), dimension=array.size)


def decode_vector(vector: types_pb2.Vector, *, field: str = "vector") -> F32Array:
    """Decodes one embedding.

    Args:
        vector: the message.
        field: where it stands in the request, for the error.

    Returns:
        float32, shape (D,), read-only; its values may not be finite.

    Raises:
        InvalidVectorError: empty, torn, both forms given, or another dimension than it says.
    """
    packed = vector.packed
    if packed and len(vector.values):
        raise InvalidVectorError("a vector has packed or values, got both; send packed alone", field=field)
    if len(packed) % 4:
        raise InvalidVectorError(
            f"packed has {len(packed)} bytes, wanted a multiple of 4 (float32)", field=f"{field}.packed"
        )
    x_D: F32Array = np.frombuffer(packed, dtype=_F32) if packed else np.array(vector.values, dtype=np.float32)
    if not x_D.size:
        raise InvalidVectorError("a vector is empty; send packed float32 values", field=field)
    if vector.dimension and vector.dimension != x_D.size:
        raise InvalidVectorError(
            f"dimension says {vector.dimension}, the data has {x_D.size} values", field=f"{field}.dimension"
        )
    return x_D


def encode_vectors(x_QD: npt.ArrayLike) -> types_pb2.VectorBatch:
    """Encodes several embeddings of one dimension.

    Args:
        x_QD: numbers, shape (Q, D).

    Raises:
        InvalidVectorError: not two-dimensional, or D is 0.
    """
    array = np.asarray(x_QD, dtype=_F32)
    if array.ndim != 2 or not array.shape[1]:
        raise InvalidVectorError(f"a batch of vectors has shape (Q, D) with D at least 1, got {array.shape}")
    return types_pb2.VectorBatch(packed=array.tobytes(), dimension=array.shape[1])


def decode_vectors(batch: types_pb2.VectorBatch, *, field: str = "vectors") -> F32Array:
    """Decodes several embeddings.

    Returns:
        float32, shape (Q, D), read-only; Q may be 0, values may not be finite.

    Raises:
        InvalidVectorError: no dimension, or torn rows.
    """
    dimension, size = batch.dimension, len(batch.packed)
    if dimension < 1:
        raise InvalidVectorError(f"dimension is {dimension}, wanted at least 1", field=f"{field}.dimension")
    if size % (4 * dimension):
        raise InvalidVectorError(
            f"packed has {size} bytes, wanted a multiple of {4 * dimension} (float32 times dimension)",
            field=f"{field}.packed",
        )
    return np.frombuffer(batch.packed, dtype=_F32).reshape(-1, dimension)


def encode_metric(metric: Metric) -> "types_pb2.Metric.ValueType":
    """Returns the enum value of a metric."""
    return _METRICS[metric]


def decode_metric(value: int) -> Metric:
    """Returns the metric of an enum value.

    Raises:
        InvalidArgumentError: unspecified, or from a newer server.
    """
    for metric, number in _METRICS.items():
        if number == value:
            return metric
    raise InvalidArgumentError(f"unknown metric {value}; update the client")


def encode_ref(ref: SnapshotRef) -> types_pb2.SnapshotRef:
    """Encodes the name of the snapshot that answered."""
    return types_pb2.SnapshotRef(
        name=ref.name, fingerprint=ref.fingerprint, generation=ref.generation, delta_number=ref.delta_number
    )


def decode_ref(message: types_pb2.SnapshotRef) -> SnapshotRef:
    """Decodes the name of the snapshot that answered."""
    return SnapshotRef(
        name=message.name,
        fingerprint=message.fingerprint,
        generation=message.generation,
        delta_number=message.delta_number,
    )


def encode_time(moment: datetime) -> timestamp_pb2.Timestamp:
    """Encodes an instant; one without a zone is taken as UTC."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return timestamp


def encode_value(value: Scalar) -> types_pb2.Value:
    """Encodes a metadata value; None becomes an unset kind."""
    if value is None:
        return types_pb2.Value()
    if isinstance(value, bool):
        return types_pb2.Value(bool_value=value)
    if isinstance(value, int):
        return types_pb2.Value(int_value=value)
    if isinstance(value, float):
        return types_pb2.Value(float_value=value)
    if isinstance(value, datetime):
        return types_pb2.Value(time_value=encode_time(value))
    return types_pb2.Value(string_value=value)


def decode_value(message: types_pb2.Value) -> Scalar:
    """Decodes a metadata value.

    Raises:
        InvalidArgumentError: an instant that is none: before the year 1, after 9999, or with nanoseconds out of range.
    """
    kind = message.WhichOneof("kind")
    if kind == "time_value":
        try:
            return message.time_value.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            got = f"{message.time_value.seconds} s and {message.time_value.nanos} ns"
            raise InvalidArgumentError(f"{got} is no instant of the years 1 to 9999", field="time_value") from error
    value: Scalar = getattr(message, kind) if kind else None
    return value


def encode_error(error: VicinalError) -> types_pb2.Error:
    """Encodes an error that stands inside an otherwise successful reply."""
    return types_pb2.Error(
        code=int(error.code), reason=error.reason, message=error.message[:_MAX_TEXT], metadata=_metadata(error)
    )


def decode_error(message: types_pb2.Error) -> VicinalError:
    """Decodes an error that stands inside a reply."""
    return _make(message.code, message.reason, message.message, metadata=dict(message.metadata))


def encode_status(error: VicinalError) -> bytes:
    """Returns the serialized google.rpc.Status of an error, for trailing metadata."""
    status = status_pb2.Status(code=int(error.code), message=error.message[:_MAX_TEXT])
    metadata = _metadata(error)
    retry_after_ms = metadata.pop(RETRY_AFTER_KEY, "")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=metadata))
    if error.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field[:_MAX_VALUE], description=error.message[:_MAX_VALUE])
        status.details.add().Pack(bad)
    if retry_after_ms:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(retry_after_ms))
        status.details.add().Pack(retry)
    return bytes(status.SerializeToString())


def decode_status(code: int, details: str, trailing: Iterable[tuple[str, str | bytes]]) -> VicinalError:
    """Returns the error of a failed call, of the class that the server raised.

    Args:
        code: number of the status code.
        details: its text.
        trailing: trailing metadata of the call.
    """
    for key, value in trailing:
        if key == STATUS_KEY and isinstance(value, bytes):
            try:
                return _from_status(status_pb2.Status.FromString(value))
            except (DecodeError, ValueError):
                break
    if code == Code.RESOURCE_EXHAUSTED and "larger than max" in details:
        return InvalidArgumentError(f"the message is too large: {details}; send smaller batches")
    return _make(code, "", details or "the call failed without a message", metadata={})


def _from_status(status: status_pb2.Status) -> VicinalError:
    reason, field, metadata = "", "", dict[str, str]()
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, {**metadata, **info.metadata}
        elif detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            metadata[RETRY_AFTER_KEY] = str(retry.retry_delay.ToMilliseconds())
    return _make(status.code, reason, status.message, metadata=metadata, field=field)


def _make(code: int, reason: str, message: str, *, metadata: dict[str, str], field: str = "") -> VicinalError:
    cls = by_reason().get(reason) or _BY_CODE.get(code, VicinalError)
    return cls(message, metadata=metadata, field=field)


def _metadata(error: VicinalError) -> dict[str, str]:
    return {key: value[:_MAX_VALUE] for key, value in error.metadata.items() if key != "path"}
