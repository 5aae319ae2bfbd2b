"""Long-running operations on disk: what each is doing, for every worker, and for a server that starts later.

    WORKSPACE/operations/refresh-000003/operation.json   the state, replaced by rename
    WORKSPACE/operations/refresh-000003/job.json         the command
    WORKSPACE/operations/refresh-000003/log.txt          what the command wrote
    WORKSPACE/operations/refresh-000003/cancel           there once somebody asked it to stop
    WORKSPACE/operations/.lock                           held by the operation that runs, as long as it lives

Imports only the standard library and the store's own vocabulary, because the process that watches an
operation is to be small.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vicinal.artifact import storage_guard, sync_path
from vicinal.errors import CorruptArtifactError, OperationInterruptedError, VicinalError

FOLDER = "operations"
LOCK = ".lock"
JOB = "job.json"
LOG = "log.txt"
OUTPUT = "output.txt"
CANCEL = "cancel"
_STATE = "operation.json"
RUNNING, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED = "running", "succeeded", "failed", "cancelled", "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an operation did not succeed."""

    code: int
    """Status code."""
    reason: str
    """Such as ``GATE_FAILED``."""
    message: str
    """For people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationState:
    """One operation."""

    name: str
    """Such as ``operations/refresh-000003``."""
    verb: str
    """Such as ``refresh``."""
    state: str
    """``running``, ``succeeded``, ``failed``, ``cancelled`` or ``interrupted``."""
    created_at: str
    """ISO 8601, UTC."""
    ended_at: str = ""
    """The same; empty while it runs."""
    progress: float = 0.0
    """Share of the work that is done, in [0, 1]; a guess by the stage."""
    stage: str = ""
    """What it is doing, for people."""
    request_id: str = ""
    """Chosen by the caller; may be empty."""
    failure: Failure | None = None
    """Why it did not succeed."""
    result: Mapping[str, str] = field(default_factory=dict)
    """Results by name."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.state != RUNNING


def read_state(directory: Path) -> OperationState:
    """Returns the state of an operation.

    Raises:
        CorruptArtifactError: the file is missing or damaged.
    """
    path = directory / _STATE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        failure = raw.pop("failure")
        raw.pop("format_version")
        return OperationState(**raw, failure=None if failure is None else Failure(**failure))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"{path} is damaged: {error}", metadata={"file": path.name}) from error


def write_state(directory: Path, state: OperationState) -> None:
    """Replaces the state of an operation, by one rename.

    Raises:
        StorageError: the disk is full or failed; the state has not changed.
    """
    path = directory / _STATE
    temporary = directory / f".{_STATE}.{os.getpid()}"
    with storage_guard(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump({"format_version": 1, **asdict(state)}, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_path(directory)
        finally:
            temporary.unlink(missing_ok=True)


def failure_of(error: VicinalError) -> Failure:
    """Returns an error as it stands in a state."""
    return Failure(code=int(error.code), reason=error.reason, message=error.message)


def interruption(why: str) -> Failure:
    """Returns why an operation was not finished by whoever watched it."""
    return failure_of(
        OperationInterruptedError(
            f"{why}; nothing that is served has changed. Start it again: what was embedded is not embedded again"
        )
    )
