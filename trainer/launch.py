"""Several processes of one run: who leads, and how the others find the run that the leader began.

Lightning starts the processes of one node itself, by running the same command again. On several
nodes, or under torchrun or Slurm, the command is started on each; the workspace is then on a
folder that all nodes see, and the run has a name that all know.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vicinal.errors import InvalidArgumentError, UnavailableError

RUN_NAME = "VICINAL_RUN"
"""Environment variable with the name of the run, for all its processes."""
_LOCAL = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
_PATIENCE_S, _POLL_S = 24 * 3600.0, 0.2


def is_leader() -> bool:
    """Returns whether this process is the first of its run, which alone reads, decides and writes."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in _LOCAL)


def shared_name() -> str | None:
    """Returns the name of the run that all processes know, None where there is none."""
    if name := os.environ.get(RUN_NAME):
        return name
    for variable in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"):
        if (value := os.environ.get(variable, "none")) != "none":
            return f"job-{value}"
    return None


@contextlib.contextmanager
def sharing(name: str) -> Iterator[None]:
    """Tells the name of the run to the processes that are started meanwhile."""
    before = os.environ.get(RUN_NAME)
    os.environ[RUN_NAME] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_NAME]
        else:
            os.environ[RUN_NAME] = before


def await_run(workspace: Path, *, patience_s: float = _PATIENCE_S) -> str:
    """Waits until the leader has begun the run, and returns its name.

    Args:
        workspace: directory of the workspace.
        patience_s: longest wait in seconds; the leader may have millions of images to decode first.

    Raises:
        InvalidArgumentError: this process does not lead, and nothing says which run it belongs to.
        UnavailableError: the leader has not begun.
    """
    name = shared_name()
    if name is None:
        raise InvalidArgumentError(
            f"this process is not the first of its run and does not know which it is; set {RUN_NAME} to one name on "
            "all nodes, and put the workspace where all nodes see it"
        )
    path = workspace / "runs" / name / "run.json"
    deadline = time.monotonic() + patience_s
    while not path.is_file():
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"run {name} has not begun in {workspace} after {patience_s:.0f} s; is the first process alive, and "
                "does it see the same folder?"
            )
        time.sleep(_POLL_S)
    return name
