"""Runs the verbs as a user would: each a process of its own, its result the JSON it prints."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from vicinal.errors import FailedPreconditionError

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


@dataclass(slots=True, kw_only=True)
class Steps:
    """The verbs run so far on one workspace."""

    workspace: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step, by its name."""

    def run(self, name: str, *words: str) -> dict[str, Any]:
        """Runs ``vicinal WORDS --workspace W --json`` and returns what it printed.

        Args:
            name: what to call the step.
            words: verb and arguments.

        Raises:
            FailedPreconditionError: the verb failed; it has said why on the standard error stream.
        """
        self.console.print(f"[bold]vicinal {' '.join(words)}[/bold]")
        started = time.perf_counter()
        command = [*_vicinal(), *words, "--workspace", str(self.workspace), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        self.seconds[name] = time.perf_counter() - started
        if done.returncode:
            raise FailedPreconditionError(
                f"step {name!r} failed with exit code {done.returncode}; its message is above"
            )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Starts a verb and returns the process; its JSON comes on its standard output."""
        command = [*_vicinal(), *words, "--workspace", str(self.workspace), "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def server(self, *words: str) -> Iterator[str]:
        """Runs ``vicinal serve`` on a free port of loopback and gives its address.

        Args:
            words: further arguments.

        Raises:
            FailedPreconditionError: the server did not start, or did not end cleanly when asked to.
        """
        ready = self.workspace / "work" / f"serve-{os.getpid()}-{time.monotonic_ns()}.json"
        command = [*_vicinal(), "serve", "--workspace", str(self.workspace), "--port", "0", "--ready-file", str(ready)]
        process = subprocess.Popen([*command, *words])
        try:
            yield _wait_for(ready, process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            ready.unlink(missing_ok=True)
        if code:
            raise FailedPreconditionError(f"the server ended with exit code {code}; its log is above")


def _vicinal() -> list[str]:
    return [sys.executable, "-m", "vicinal"]


def _wait_for(ready: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if ready.is_file():
            return str(json.loads(ready.read_text(encoding="utf-8"))["address"])
        time.sleep(0.05)
    raise FailedPreconditionError("the server did not start; its log is above")
