"""``vicinal serve`` as an operator runs it: a process, a ready file, signals, one clear line for what is wrong."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.serving.certificates import Certificates
from tests.serving.conftest import add_snapshot, make_vectors
from vicinal.client import AsyncClient, Client, Security
from vicinal.store import Store

pytestmark = pytest.mark.e2e


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "workspace")
    for count in (100, 120):
        add_snapshot(store, make_vectors(count, seed=count))
    store.activate("1")
    return store.root


def command(workspace: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "vicinal", "serve", "--workspace", str(workspace), "--port", "0", *words]


@contextmanager
def serving(workspace: Path, *words: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    ready = workspace / "work" / f"ready-{time.monotonic_ns()}.json"
    process = subprocess.Popen(command(workspace, "--ready-file", str(ready), *words), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 40
        while not ready.exists():
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline, "not ready in time"
            time.sleep(0.02)
        yield process, json.loads(ready.read_text())["address"]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_serves_follows_the_alias_and_ends_on_sigterm(workspace: Path) -> None:
    with serving(workspace, "--processes", "1") as (process, address), Client(address) as client:
        assert client.search("item-00001").snapshot.name == "snapshots/000001"
        Store(workspace).activate("2")
        deadline = time.monotonic() + 10
        while client.get_active_snapshot().name != "snapshots/000002" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert client.search("item-00119").snapshot.generation == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_two_workers_under_tls_answer_and_end_in_order(workspace: Path, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    certificate, private_key = certificates.server
    words = ["--processes", "2", "--set", f"tls.certificate={certificate}", "--set", f"tls.private_key={private_key}"]
    security = Security(ca=certificates.ca)

    async def ask(address: str) -> set[str]:
        async with AsyncClient(address, security=security, connections=4) as client:
            found = await asyncio.gather(*(client.search(f"item-{row:05d}") for row in range(100)))
        return {one.snapshot.name for one in found}

    with serving(workspace, *words) as (process, address), Client(address, security=security) as client:
        assert asyncio.run(ask(address)) == {"snapshots/000001"}
        # Some ten megabytes both ways, more than any window or buffer between.
        x_QD = np.tile(make_vectors(100, seed=100), (50, 1))
        found = client.batch_search(x_QD, neighbor_count=90)
        assert [found[row].item_ids[0] for row in range(len(x_QD))] == [f"item-{row % 100:05d}" for row in range(5000)]
        Store(workspace).activate("2")
        deadline = time.monotonic() + 10
        while client.get_active_snapshot().name != "snapshots/000002" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert asyncio.run(ask(address)) == {"snapshots/000002"}
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))):
            # One that never agreed on TLS keeps nobody from ending.
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_a_port_that_is_taken_is_one_line_and_exit_1(workspace: Path) -> None:
    with serving(workspace, "--processes", "1") as (_, address):
        port = address.rpartition(":")[2]
        again = subprocess.run(
            [*command(workspace)[:-1], port, "--processes", "1"], capture_output=True, timeout=40, check=False
        )
        assert again.returncode == 1
        lines = [line for line in again.stderr.decode().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "port is taken" in lines[0]
        assert b"Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--set", "listen.prot=1"], "did you mean 'port'"),
        (["--set", "limits.max_in_flight=0"], "wanted 1 to"),
        (["--snapshot", "snapshots/000077"], "there are 000001 to 000002"),
    ],
)
def test_a_wrong_setting_is_one_line(workspace: Path, words: list[str], message: str) -> None:
    done = subprocess.run(command(workspace, *words), capture_output=True, timeout=40, check=False)
    assert done.returncode in {1, 2}
    errors = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert b"Traceback" not in done.stderr


def test_the_shell_client_reads_what_is_served(workspace: Path) -> None:
    with serving(workspace, "--processes", "1") as (_, address):
        environment = {**os.environ, "VICINAL_ADDRESS": address}

        def vicinal(*words: str) -> "subprocess.CompletedProcess[str]":
            return subprocess.run(
                [sys.executable, "-m", "vicinal", *words],
                capture_output=True,
                text=True,
                env=environment,
                timeout=40,
                check=False,
            )

        found = json.loads(vicinal("query", "item-00005", "-n", "3", "--json").stdout)
        assert [len(found["neighbors"]), found["snapshot"]] == [3, "snapshots/000001"]
        listed = json.loads(vicinal("snapshots", "--json").stdout)
        assert [one["name"] for one in listed["snapshots"]] == ["snapshots/000002", "snapshots/000001"]
        assert json.loads(vicinal("snapshots", "snapshots/000002", "--json").stdout)["generation"] == 2
        missing = vicinal("query", "nobody.jpg")
        assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
        assert "no item has the id" in missing.stderr
    gone = subprocess.run(
        [sys.executable, "-m", "vicinal", "snapshots", "--address", address, "--timeout", "1"],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert gone.returncode == 1
    assert "no server answers at" in gone.stderr
