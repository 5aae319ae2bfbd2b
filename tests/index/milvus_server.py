"""Milvus servers for the tests: milvus-lite from an environment of its own, which has another FAISS than ours.

``make .venv-milvus`` makes that environment; VICINAL_TEST_MILVUS names another one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 40.0


def environment() -> Path:
    """Returns the environment that has the servers; it need not be there."""
    return Path(os.environ.get("VICINAL_TEST_MILVUS", ROOT / ".venv-milvus"))


def lite_command() -> Path | None:
    """Returns the command of milvus-lite, None where it is not installed."""
    command = environment() / "bin" / "milvus-lite"
    return command if command.is_file() else None


@contextlib.contextmanager
def lite_server(command: Path, directory: Path) -> Iterator[str]:
    """Runs milvus-lite on loopback and gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(directory / "milvus")]
    with _running([str(command), "server", *place], directory, port) as uri:
        yield uri


@contextlib.contextmanager
def real_server(command: Path, directory: Path) -> Iterator[str]:
    """Runs Milvus, which listens on every interface, and gives its address on loopback."""
    with _running(
        [str(command), "--data", str(directory / "milvus"), "--proxy-port", "19530"], directory, 19530
    ) as uri:
        yield uri


@contextlib.contextmanager
def _running(words: list[str], directory: Path, port: int) -> Iterator[str]:
    with (directory / "milvus.log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(uri: str, process: "subprocess.Popen[bytes]") -> None:
    """Waits until a server answers."""
    from index.engines.milvus import connected
    from vicinal.errors import UnavailableError

    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            with connected(uri, timeout_s=3) as client:
                client.list_collections()
                return
        except UnavailableError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.3)
