"""The errors of Vicinal: one tree, each class with one reason and one status code.

The server sends reason and code over the wire; the client raises the same class. A message says
what, got, wanted and next step, and never holds a secret or a traceback.
"""

import enum
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import ClassVar

ERROR_DOMAIN = "vicinal.v1"
"""The ``domain`` of the ErrorInfo that travels with an error."""


class Code(enum.IntEnum):
    """Status codes; the numbers are those of google.rpc.Code and of grpc.StatusCode."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class VicinalError(Exception):
    """Base of every error that Vicinal raises on purpose.

    Args:
        message: what, got, wanted and next step, in one or two sentences.
        metadata: machine-readable details, such as ``{"item_id": "a.jpg"}``.
        field: the request field that was wrong, such as ``options.neighbor_count``.
    """

    reason: ClassVar[str] = "UNKNOWN"
    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = field


class InvalidArgumentError(VicinalError):
    """Something the caller gave is wrong, whatever the state of the service."""

    reason, code = "INVALID_ARGUMENT", Code.INVALID_ARGUMENT


class InvalidConfigError(InvalidArgumentError):
    """A configuration file, ``--set`` or environment override is wrong."""

    reason = "INVALID_CONFIG"


class InvalidVectorError(InvalidArgumentError):
    """A vector is empty, torn, not finite, or has no direction where one is needed."""

    reason = "INVALID_VECTOR"


class InvalidImageError(InvalidArgumentError):
    """Bytes are not an image that can be decoded, or are too large."""

    reason = "INVALID_IMAGE"


class InvalidLabelError(InvalidArgumentError):
    """A label, a support set or a label operation is wrong."""

    reason = "INVALID_LABEL"


class InvalidCorpusError(InvalidArgumentError):
    """A corpus cannot be read: wrong path, no images, broken archive."""

    reason = "INVALID_CORPUS"


class NotFoundError(VicinalError):
    """Something that was named does not exist."""

    reason, code = "NOT_FOUND", Code.NOT_FOUND


class ItemNotFoundError(NotFoundError):
    """No item has that id."""

    reason = "ITEM_NOT_FOUND"


class SnapshotNotFoundError(NotFoundError):
    """No snapshot has that name."""

    reason = "SNAPSHOT_NOT_FOUND"


class LabelSetNotFoundError(NotFoundError):
    """No label set, class, batch or proposal has that name."""

    reason = "LABEL_SET_NOT_FOUND"


class ArtifactNotFoundError(NotFoundError):
    """No encoder, embeddings or run has that name."""

    reason = "ARTIFACT_NOT_FOUND"


class AlreadyExistsError(VicinalError):
    """Something of that name is there already."""

    reason, code = "ALREADY_EXISTS", Code.ALREADY_EXISTS


class FailedPreconditionError(VicinalError):
    """The state of the service or workspace does not allow it; retrying alone does not help."""

    reason, code = "FAILED_PRECONDITION", Code.FAILED_PRECONDITION


class NoActiveSnapshotError(FailedPreconditionError):
    """Nothing has been published yet."""

    reason = "NO_ACTIVE_SNAPSHOT"


class DimensionMismatchError(FailedPreconditionError):
    """A vector has another dimension than the snapshot."""

    reason = "DIMENSION_MISMATCH"


class FingerprintMismatchError(FailedPreconditionError):
    """Two artifacts were made by different encoders, preprocessing or metrics."""

    reason = "FINGERPRINT_MISMATCH"


class NoEncoderError(FailedPreconditionError):
    """The snapshot carries no encoder, so it answers vectors and item ids only."""

    reason = "NO_ENCODER"


class GateFailedError(FailedPreconditionError):
    """A snapshot did not pass the gate; what is served has not changed."""

    reason = "GATE_FAILED"


class OperationFailedError(FailedPreconditionError):
    """A long-running operation did not succeed; what is served has not changed."""

    reason = "OPERATION_FAILED"


class TrainingStoppedError(FailedPreconditionError):
    """A training run was stopped because it had gone bad; the last good checkpoint is kept."""

    reason = "TRAINING_STOPPED"


class CorruptArtifactError(VicinalError):
    """A file of an artifact is missing, truncated or changed, or of an unknown format version."""

    reason, code = "CORRUPT_ARTIFACT", Code.DATA_LOSS


class StorageError(VicinalError):
    """The disk said no: full, read-only, or an I/O error; names the path."""

    reason, code = "STORAGE_ERROR", Code.RESOURCE_EXHAUSTED


class OverloadedError(VicinalError):
    """Too much is in flight; try again after the time given."""

    reason, code = "OVERLOADED", Code.RESOURCE_EXHAUSTED


class PendingLimitError(VicinalError):
    """Too many changed items wait for a refresh to fold them in."""

    reason, code = "PENDING_LIMIT", Code.RESOURCE_EXHAUSTED


class BusyError(VicinalError):
    """Another process holds the lock that this needs."""

    reason, code = "BUSY", Code.ABORTED


class OperationInterruptedError(VicinalError):
    """A long-running operation was ended with the server; start it again."""

    reason, code = "OPERATION_INTERRUPTED", Code.ABORTED


class ConflictError(VicinalError):
    """The thing changed since it was read; read again and retry."""

    reason, code = "CONFLICT", Code.ABORTED


class UnauthenticatedError(VicinalError):
    """No valid credentials were given."""

    reason, code = "UNAUTHENTICATED", Code.UNAUTHENTICATED


class PermissionDeniedError(VicinalError):
    """The credentials do not allow this call."""

    reason, code = "PERMISSION_DENIED", Code.PERMISSION_DENIED


class DeadlineExceededError(VicinalError):
    """The deadline passed before the answer."""

    reason, code = "DEADLINE_EXCEEDED", Code.DEADLINE_EXCEEDED


class CancelledError(VicinalError):
    """The caller or the operator cancelled the work."""

    reason, code = "CANCELLED", Code.CANCELLED


class UnavailableError(VicinalError):
    """The server cannot be reached, is starting or is shutting down; retry."""

    reason, code = "UNAVAILABLE", Code.UNAVAILABLE


class UnimplementedError(VicinalError):
    """This server, build or machine does not do that."""

    reason, code = "UNIMPLEMENTED", Code.UNIMPLEMENTED


class InternalError(VicinalError):
    """A bug in Vicinal; the server log has the details under the request id."""

    reason, code = "INTERNAL", Code.INTERNAL


def _tree(base: type[VicinalError]) -> Iterable[type[VicinalError]]:
    yield base
    for child in base.__subclasses__():
        yield from _tree(child)


def by_reason() -> dict[str, type[VicinalError]]:
    """Returns every error class under its reason, for the client's way back from the wire."""
    return {cls.reason: cls for cls in _tree(VicinalError)}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` or the known names, to be put after an error about a name.

    Args:
        name: what was given.
        known: what would have been right.

    Returns:
        A text that starts with ``;`` and ends the sentence, or an empty one when nothing is known.
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not known:
        return ""
    more = ", ..." if len(known) > 20 else ""
    return f"; known: {', '.join(known[:20])}{more}"
