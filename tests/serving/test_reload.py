"""SIGHUP: what can change changes in every worker, what cannot is said, and a wrong file changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.config import load_config
from serving.reload import is_live, reload
from tests.serving.conftest import make_vectors
from vicinal.client import Client
from vicinal.errors import InvalidArgumentError, InvalidConfigError
from vicinal.store import Store


def test_live_settings_are_taken_over_and_the_others_wait(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(None, assignments=["listen.port=50099"])
    held = config.limits
    words = ["limits.max_neighbor_count=7", "listen.processes=3", "limits.max_message_mib=1", "listen.drain_s=2"]
    with caplog.at_level("INFO"):
        assert reload(config, lambda: load_config(None, assignments=["listen.port=0", *words]))
    assert (held.max_neighbor_count, config.listen.drain_s) == (7, 2.0)
    assert (config.listen.processes, config.listen.port, held.max_message_mib) == (0, 50099, 64)
    assert "only after a restart: listen.processes, limits.max_message_mib" in caplog.text
    assert "limits.max_neighbor_count = 7" in caplog.text


def test_a_wrong_configuration_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(None)

    def wrong() -> None:
        raise InvalidConfigError("unknown key 'limits.max_neighbour_count'")

    assert not reload(config, wrong)  # type: ignore[arg-type]
    assert config == load_config(None)
    assert "stays as it was: unknown key" in caplog.text


def test_what_is_built_at_the_start_is_not_live() -> None:
    assert is_live("limits.max_in_flight")
    assert is_live("observe.log_level")
    for key in ("listen.port", "tls.certificate", "limits.max_message_mib", "observe.access_log"):
        assert not is_live(key)


@contextmanager
def server(store: Store, config: Path, *, processes: int) -> Iterator[tuple["subprocess.Popen[str]", Path, str]]:
    ready, log = config.with_name("ready.json"), config.with_name("log")
    words = [sys.executable, "-m", "vicinal", "serve", "-w", str(store.root), "--port", "0", "--config", str(config)]
    words += ["--processes", str(processes), "--ready-file", str(ready)]
    with log.open("w") as stream:
        process = subprocess.Popen(words, stderr=stream, text=True)
    try:
        until = time.monotonic() + 40
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield process, log, json.loads(ready.read_text())["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def wait_for(log: Path, text: str, *, count: int) -> None:
    until = time.monotonic() + 20
    while log.read_text().count(text) < count:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_running_server_reads_its_file_again(vector_store: Store, tmp_path: Path, processes: int) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[limits]\nmax_neighbor_count = 20\n")
    teller = processes + (processes > 1)
    with server(vector_store, config, processes=processes) as (process, log, address):
        x_D = make_vectors(1)[0]

        def counts() -> set[int]:
            found = set()
            for _ in range(8):
                with Client(address) as client:
                    try:
                        found.add(len(client.search(x_D, neighbor_count=20)))
                    except InvalidArgumentError:
                        found.add(0)
            return found

        assert counts() == {20}
        config.write_text("[limits]\nmax_neighbor_count = 10\n")
        os.kill(process.pid, signal.SIGHUP)
        wait_for(log, "limits.max_neighbor_count = 10", count=teller)
        assert counts() == {0}
        config.write_text("[limits]\nmax_neighbour_count = 30\n")
        os.kill(process.pid, signal.SIGHUP)
        wait_for(log, "did you mean 'max_neighbor_count'", count=1)
        assert counts() == {0}
        config.write_text("[limits]\nmax_neighbor_count = 20\n[listen]\nthreads = 3\n")
        os.kill(process.pid, signal.SIGHUP)
        wait_for(log, "only after a restart: listen.threads", count=teller)
        assert counts() == {20}
