"""Runs one operation beside the server and keeps its state: python -m serving.operation_runner DIRECTORY FD FD.

A process of its own, so that it outlives a worker that is started again. It ends the command when
somebody asks for it, or when the server is gone: the server holds the other end of a pipe. The
command holds the operations' lock too, and dies with this process, so that none is left behind.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from serving.operation_state import (
    CANCEL,
    CANCELLED,
    FAILED,
    INTERRUPTED,
    JOB,
    LOG,
    OUTPUT,
    SUCCEEDED,
    OperationState,
    failure_of,
    interruption,
    read_state,
    write_state,
)
from vicinal.errors import CancelledError, OperationFailedError

_LOOK_S = 0.1
_AGAIN_S = 1.0
"""Until an interrupt is sent once more: Python drops one that meets a callback, as while a module is imported."""
_PR_SET_PDEATHSIG = 1
_LINE_BYTES = 4096
_STAGES = (
    ("embedding", 0.1),
    ("training", 0.1),
    ("add", 0.6),
    ("rebuild", 0.6),
    ("verifying", 0.8),
    ("measuring", 0.9),
)
"""How a line of the command begins, and how much is done then."""
_RESULTS = (
    "snapshot",
    "action",
    "reason",
    "generation",
    "count",
    "new_count",
    "changed_count",
    "moved_count",
    "vanished_count",
    "quarantined_count",
    "recall",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be run."""

    command: Sequence[str]
    """The command."""
    workspace: str
    """Where it works."""
    niceness: int
    """Added to that of the server, 0 to 19."""
    hidden: Sequence[tuple[str, str]]
    """Texts that no message may hold, and what stands for them."""
    kill_after_s: float = 10.0
    """Time that the command has to stop."""


def main() -> None:
    """Runs the operation in the directory that is named, until it ends or is ended."""
    directory, life_fd, lock_fd = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    job = Job(**json.loads((directory / JOB).read_text(encoding="utf-8")))
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: stops.append(got))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.nice(job.niceness)
    before = _active(job)
    with (directory / OUTPUT).open("wb") as output, (directory / LOG).open("wb") as log:
        child = subprocess.Popen(  # noqa: S603 - the server's own command
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            pass_fds=(lock_fd,),
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - there is one thread here
        )
        watch = _Watch(directory, child, log, job)
        why = watch.run(life_fd, stops)
    write_state(directory, _ended(read_state(directory), watch, why, before))


class _Watch:
    """Follows what the command writes, and ends it."""

    def __init__(self, directory: Path, child: "subprocess.Popen[bytes]", log: IO[bytes], job: Job) -> None:
        self.directory = directory
        self.child = child
        self.job = job
        self.error = ""
        """The last error that the command told."""
        self._log = log
        self._rest = b""

    def run(self, life_fd: int, stops: Sequence[int]) -> str:
        """Returns when the command has ended: with ``cancelled`` or ``interrupted`` if it was made to, or empty."""
        assert self.child.stderr is not None
        why, again_s, deadline_s = "", float("inf"), float("inf")
        # What the command started may outlive it and keep the pipe open.
        os.set_blocking(self.child.stderr.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stderr, selectors.EVENT_READ)
            selector.register(life_fd, selectors.EVENT_READ)
            while self.child.poll() is None:
                ready = {key.fileobj for key, _ in selector.select(_LOOK_S)}
                if self.child.stderr in ready and not self._read():
                    selector.unregister(self.child.stderr)
                    time.sleep(_LOOK_S)
                if not why:
                    why = self._asked_to_stop(gone=life_fd in ready or bool(stops))
                    if why:
                        selector.unregister(life_fd)
                        again_s = time.monotonic()
                        deadline_s = again_s + self.job.kill_after_s
                if time.monotonic() > deadline_s:
                    self._signal(signal.SIGKILL)
                elif time.monotonic() >= again_s:
                    self._signal(signal.SIGINT)
                    again_s = time.monotonic() + _AGAIN_S
        while self._read():
            pass
        return why

    def _asked_to_stop(self, *, gone: bool) -> str:
        if gone:
            return INTERRUPTED
        return CANCELLED if (self.directory / CANCEL).exists() else ""

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def _read(self) -> bool:
        assert self.child.stderr is not None
        try:
            piece = os.read(self.child.stderr.fileno(), 65_536)
        except BlockingIOError:
            return False
        self._log.write(piece)
        self._log.flush()
        *lines, self._rest = (self._rest + piece).split(b"\n")
        self._rest = self._rest[-_LINE_BYTES:]
        for line in lines:
            self._note(line[:_LINE_BYTES].decode("utf-8", "replace").strip())
        return bool(piece)

    def _note(self, line: str) -> None:
        for text, shown in self.job.hidden:
            line = line.replace(text, shown)
        if line.startswith(("error: ", "internal error: ")):
            self.error = line.partition(": ")[2]
        elif line:
            state = read_state(self.directory)
            share = next((share for begin, share in _STAGES if line.startswith(begin)), state.progress)
            write_state(self.directory, replace(state, stage=line[:200], progress=max(share, state.progress)))


def _ended(state: OperationState, watch: _Watch, why: str, before: dict[str, object]) -> OperationState:
    ended = replace(state, ended_at=datetime.now(UTC).isoformat())
    code = watch.child.returncode
    published = _published_since(watch.job, before)
    if code == 0 or published:
        # It may have been asked to stop too late: what was published is served.
        result = _result(watch.directory) or {"snapshot": published}
        return replace(ended, state=SUCCEEDED, progress=1.0, stage="done", result=result)
    if why == CANCELLED:
        failure = failure_of(CancelledError("cancelled; what is served has not changed"))
    elif why == INTERRUPTED:
        failure = interruption("the server stopped")
    elif watch.error:
        failure = failure_of(OperationFailedError(watch.error))
    else:
        failure = interruption(f"the process of the operation ended with code {code}")
        why = INTERRUPTED
    return replace(ended, state=why or FAILED, stage=why or FAILED, failure=failure)


def _result(directory: Path) -> dict[str, str]:
    lines = (directory / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
    with contextlib.suppress(ValueError, IndexError):
        raw = json.loads(lines[-1])
        return {name: str(raw[name]) for name in _RESULTS if raw.get(name) is not None}
    return {}


def _active(job: Job) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, object] = json.loads((Path(job.workspace) / "active.json").read_text(encoding="utf-8"))
        return found
    return {}


def _published_since(job: Job, before: dict[str, object]) -> str:
    """Returns the snapshot that took the place of the one that was active, if it was made from it; else empty."""
    now = _active(job)
    if not before or now.get("generation") == before.get("generation"):
        return ""
    name = f"snapshots/{now.get('snapshot')}"
    with contextlib.suppress(OSError, ValueError, KeyError):
        manifest = json.loads((Path(job.workspace) / name / "manifest.json").read_text(encoding="utf-8"))
        return name if manifest["body"]["parent"] == f"snapshots/{before.get('snapshot')}" else ""
    return ""


def _die_with_parent() -> None:
    # A shell may have had the server ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
