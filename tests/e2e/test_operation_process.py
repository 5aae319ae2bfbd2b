"""A refresh by RPC beside a real server: it outlives a worker, and not the server."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.test_serve_process import serving
from tests.e2e.test_serve_workers import children
from tests.serving.conftest import add_image_snapshot
from tests.serving.images import make_png
from vicinal.client import Client, RetryPolicy
from vicinal.errors import OperationInterruptedError
from vicinal.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
PATIENT = RetryPolicy(attempt_count=40, max_s=0.5)


def processes_of(text: str) -> list[int]:
    """Returns the processes whose command line holds a text, but for servers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(text.encode() in word for word in words) and b"serve" not in words:
            found.append(int(path.parent.name))
    return found


def test_a_refresh_outlives_a_worker_and_not_the_server(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_image_snapshot(store)
    store.activate("1")
    corpus = tmp_path / "images"
    corpus.mkdir()
    (corpus / "a.png").write_bytes(make_png(77))
    words = ("--processes", "2", "--set", "refresh.enabled=true", "--set", f"refresh.corpora.new={corpus}")
    with serving(store.root, *words) as (process, address), Client(address, retry=PATIENT) as client:
        name = client.start_refresh().name
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while not (found := client.get_operation(name, wait_s=5)).done:
            assert time.monotonic() < deadline
        assert found.error is None, found
        assert client.search(make_png(77), neighbor_count=1).item_ids == ["a.png"]
        (corpus / "b.png").write_bytes(make_png(78))
        second = client.start_refresh().name
        while not processes_of(str(corpus)):
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
        while processes_of(str(corpus)) or processes_of(f"{store.root}/operations"):
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.05)
    with serving(store.root, "--processes", "1") as (_, address), Client(address) as client:
        found = client.get_operation(second)
        assert found.done
        served = client.get_active_snapshot().name
        if found.error is None:
            # On a busy machine it may end before the last worker that held it up is gone; then it is whole.
            assert served == "snapshots/000003"
        else:
            assert isinstance(found.error, OperationInterruptedError)
            assert "the server stopped" in found.error.message
            assert served == "snapshots/000002"
