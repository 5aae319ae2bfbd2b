"""Starts, shows and cancels long-running operations; any worker and any later server may ask about them."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from serving.config import RefreshJobConfig
from serving.operation_runner import Job
from serving.operation_state import (
    CANCEL,
    FOLDER,
    INTERRUPTED,
    JOB,
    LOCK,
    LOG,
    RUNNING,
    OperationState,
    interruption,
    read_state,
    write_state,
)
from vicinal.artifact import storage_guard
from vicinal.errors import (
    BusyError,
    CorruptArtifactError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    did_you_mean,
)
from vicinal.locks import locked
from vicinal.store import Store

_REFRESH = "refresh"
_KEPT = 100
_TRIES = 100
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshAsk:
    """What is asked of a refresh."""

    corpora: Sequence[str] = ()
    """Names of the server's configuration; none for all of them."""
    action: str = "auto"
    """``auto``, ``add`` or ``rebuild``."""
    prune: bool = False
    """Drop items that vanished from their corpus."""
    request_id: str = ""
    """A request that is repeated with the same id returns the first one's operation; empty for none."""


class Operations:
    """The operations of a workspace.

    Args:
        store: the workspace.
        config: what a caller may start.
        life_fd: end of a pipe that closes when the server is gone. Default: one that closes with this object.
    """

    def __init__(self, store: Store, config: RefreshJobConfig, *, life_fd: int | None = None) -> None:
        self._store = store
        self._config = config
        self._folder = store.root / FOLDER
        self._life_fd = life_fd
        self._pipe: tuple[int, int] | None = None

    def start_refresh(self, ask: RefreshAsk) -> OperationState:
        """Starts a refresh in a process of its own.

        Raises:
            FailedPreconditionError: another one runs, nothing is published, or the server allows none.
            InvalidArgumentError: a corpus that the configuration does not name.
            StorageError: the disk is full; nothing was started.
        """
        if not self._config.enabled:
            raise FailedPreconditionError(
                "this server starts no refresh; the operator allows it with refresh.enabled = true, "
                "or runs: vicinal refresh"
            )
        corpora = self._specs(ask.corpora)
        self._store.active()
        known = self._of_request(ask.request_id)
        if known is not None:
            return known
        with storage_guard(self._folder):
            self._folder.mkdir(exist_ok=True)
        with self._lock() as lock_fd:
            known = self._of_request(ask.request_id)
            if known is not None:
                return known
            self._forget_old()
            directory, state = self._make(ask)
            self._spawn(directory, self._job(ask, corpora), lock_fd)
            return state

    def get(self, name: str) -> OperationState:
        """Returns an operation.

        Raises:
            NotFoundError: no such operation.
        """
        return self._read(self._directory(name))

    def page(self, *, size: int, before: int | None) -> tuple[list[OperationState], int | None]:
        """Returns some operations, newest first, and the number before which the next page begins, None for none."""
        numbers = [number for number in self._numbers() if before is None or number < before]
        states = []
        for number in numbers[:size]:
            with contextlib.suppress(CorruptArtifactError):
                states.append(self._read(self._folder / _name_of(number)))
        return states, numbers[size - 1] if len(numbers) > size else None

    def ask_to_stop(self, name: str) -> OperationState:
        """Asks an operation to stop; it does so within seconds.

        Raises:
            NotFoundError: no such operation.
        """
        directory = self._directory(name)
        state = self._read(directory)
        if not state.done:
            with storage_guard(directory):
                (directory / CANCEL).touch()
        return state

    def close(self) -> None:
        """Lets operations that this object started know that the server is gone."""
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _specs(self, names: Sequence[str]) -> Mapping[str, str]:
        allowed = self._config.corpora
        for place, name in enumerate(names):
            if name not in allowed:
                raise InvalidArgumentError(
                    f"this server's configuration names no corpus {name[:80]!r}{did_you_mean(name[:80], allowed)}",
                    field=f"corpora[{place}]",
                )
        # Without any, a refresh folds in what came through the API.
        return {name: allowed[name] for name in names or allowed}

    def _job(self, ask: RefreshAsk, corpora: Mapping[str, str]) -> Job:
        root = self._store.root
        command = [sys.executable, "-m", "vicinal", _REFRESH, *corpora.values(), "--workspace", str(root), "--json"]
        command += ["--action", ask.action, *(["--prune"] if ask.prune else [])]
        hidden = [(str(root.resolve()), "WORKSPACE"), (str(root), "WORKSPACE")]
        for name, spec in corpora.items():
            hidden += [(text, name) for text in (spec, spec.partition("=")[2]) if text]
        hidden.sort(key=lambda pair: -len(pair[0]))
        return Job(command=command, workspace=str(root), niceness=self._config.niceness, hidden=hidden)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[int]:
        for attempt in range(_TRIES):
            with contextlib.ExitStack() as stack:
                try:
                    stream = stack.enter_context(locked(self._folder / LOCK, shared=False, wait=False))
                except BusyError as error:
                    running = next((one for one in self.page(size=_KEPT, before=None)[0] if not one.done), None)
                    if running is not None:
                        raise FailedPreconditionError(
                            f"{running.name} is running; wait for it, or cancel it",
                            metadata={"operation": running.name},
                        ) from error
                    if attempt + 1 == _TRIES:
                        raise FailedPreconditionError("an operation is just ending; ask again") from error
                else:
                    yield stream.fileno()
                    return
            # Somebody looks whether an operation runs, or the process of the last one is on its way out.
            time.sleep(_PAUSE_S)

    def _make(self, ask: RefreshAsk) -> tuple[Path, OperationState]:
        number = max(self._numbers(), default=0) + 1
        directory = self._folder / _name_of(number)
        state = OperationState(
            name=f"{FOLDER}/{directory.name}",
            verb=_REFRESH,
            state=RUNNING,
            created_at=datetime.now(UTC).isoformat(),
            stage="starting",
            request_id=ask.request_id,
        )
        with storage_guard(directory):
            directory.mkdir()
            write_state(directory, state)
        return directory, state

    def _spawn(self, directory: Path, job: Job, lock_fd: int) -> None:
        with storage_guard(directory):
            (directory / JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
        life_fd = self._life()
        words = [sys.executable, "-m", "serving.operation_runner", str(directory), str(life_fd), str(lock_fd)]
        with (directory / f"runner-{LOG}").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own module
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(life_fd, lock_fd),
                start_new_session=True,
            )
        # So that it does not stay in the table of processes once it has ended.
        threading.Thread(target=process.wait, name="operation", daemon=True).start()

    def _life(self) -> int:
        if self._life_fd is not None:
            return self._life_fd
        if self._pipe is None:
            self._pipe = os.pipe()
        return self._pipe[0]

    def _read(self, directory: Path) -> OperationState:
        state = read_state(directory)
        if state.done or self._is_running():
            return state
        state = read_state(directory)  # it may have ended between the two looks
        if state.done:
            return state
        failure = interruption("the process of the operation ended")
        now = datetime.now(UTC).isoformat()
        ended = replace(state, state=INTERRUPTED, stage=INTERRUPTED, failure=failure, ended_at=now)
        write_state(directory, ended)
        return ended

    def _is_running(self) -> bool:
        try:
            with locked(self._folder / LOCK, shared=True, wait=False):
                return False
        except BusyError:
            return True

    def _of_request(self, request_id: str) -> OperationState | None:
        states = self.page(size=_KEPT, before=None)[0] if request_id else []
        return next((state for state in states if state.request_id == request_id), None)

    def _directory(self, name: str) -> Path:
        known = {f"{FOLDER}/{_name_of(number)}": number for number in self._numbers()}
        if name not in known:
            raise NotFoundError(f"no operation {name[:80]!r}; list them with: vicinal operations", field="name")
        return self._folder / _name_of(known[name])

    def _numbers(self) -> list[int]:
        names = (path.name.removeprefix(f"{_REFRESH}-") for path in self._folder.glob(f"{_REFRESH}-[0-9]*"))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _forget_old(self) -> None:
        for number in self._numbers()[_KEPT - 1 :]:
            shutil.rmtree(self._folder / _name_of(number), ignore_errors=True)


def _name_of(number: int) -> str:
    return f"{_REFRESH}-{number:06d}"
