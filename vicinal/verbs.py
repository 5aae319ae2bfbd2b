"""Runs a verb as a process of its own: how one stage is followed by another that it never imports."""

import json
import subprocess
import sys
from pathlib import Path

from vicinal.errors import FailedPreconditionError
from vicinal.types import JsonObject

_STOP_TIMEOUT_S = 30.0


def run_verb(*words: str, workspace: Path) -> JsonObject:
    """Runs ``vicinal WORDS --workspace W --json`` and returns what it printed; its progress goes to our error stream.

    Whatever interrupts the wait ends the process too.

    Args:
        words: verb and arguments.
        workspace: directory of the workspace.

    Raises:
        FailedPreconditionError: the verb failed; it has said why.
    """
    command = [sys.executable, "-m", "vicinal", *words, "--workspace", str(workspace), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a verb of ours
        try:
            printed, _ = process.communicate()
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise FailedPreconditionError(
            f"vicinal {words[0]} failed with exit code {process.returncode}; it has said why above"
        )
    value: JsonObject = json.loads(printed)
    return value


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
