"""Long-running operations: a real refresh beside the server, seen by every server, cancelled, and ended with it."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.config import RefreshJobConfig, load_config
from serving.operation_runner import Job
from serving.operation_state import FOLDER, OperationState
from serving.operations import Operations, RefreshAsk
from tests.serving.conftest import add_image_snapshot, config, running
from tests.serving.images import make_png
from vicinal.client import AsyncClient, Client, ItemUpsert, Operation
from vicinal.client.item_commands import operations as operations_command
from vicinal.errors import (
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidConfigError,
    NotFoundError,
    OperationFailedError,
)
from vicinal.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "secret-place"
    folder.mkdir()
    for number in range(100, 103):
        (folder / f"{number}.png").write_bytes(make_png(number))
    return folder


@pytest.fixture
def served(store: Store) -> Store:
    add_image_snapshot(store)
    store.activate("1")
    return store


@pytest.fixture
def address(served: Store, corpus: Path) -> Iterator[str]:
    corpora = f"refresh.corpora.new={corpus}", f"refresh.corpora.gone=gone={corpus}-not-there"
    with running(served, config("refresh.enabled=true", *corpora)) as (_, address):
        yield address


def wait_for(client: Client, name: str) -> Operation:
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        found = client.get_operation(name, wait_s=5)
        if found.done:
            return found
    raise AssertionError("it does not end")


def test_a_refresh_folds_in_what_was_upserted_and_is_served(address: str, served: Store) -> None:
    with Client(address) as client:
        client.upsert_items([ItemUpsert(item_id="mine", value=make_png(500))])
        client.delete_items(["image-00003"])
        started = client.start_refresh(["new"], request_id="once")
        assert (started.name, started.done, started.verb) == ("operations/refresh-000001", False, "refresh")
        assert client.start_refresh(["new"], request_id="once").name == started.name
        with pytest.raises(FailedPreconditionError, match="is running") as caught:
            client.start_refresh(["new"])
        assert caught.value.metadata["operation"] == started.name
        client.upsert_items([ItemUpsert(item_id="later", value=make_png(501))])
        done = wait_for(client, started.name)
        assert done.error is None, done
        assert (done.progress, done.result["snapshot"]) == (1.0, "snapshots/000002")
        assert done.end_time is not None
        deadline = time.monotonic() + 10
        while client.get_active_snapshot().name != "snapshots/000002" and time.monotonic() < deadline:
            time.sleep(0.02)
        reply = client.search(make_png(500), neighbor_count=1)
        assert (reply.item_ids, reply.snapshot.name, reply.snapshot.delta_number) == (["mine"], "snapshots/000002", 3)
        assert client.search(make_png(501), neighbor_count=1).item_ids == ["later"]
        assert client.search(make_png(101), neighbor_count=1).item_ids == ["101.png"]
        assert "image-00003" not in client.search(make_png(3), neighbor_count=100).item_ids
        client.activate_snapshot("snapshots/000001")
        assert client.search(make_png(500), neighbor_count=1).item_ids == ["mine"], "also after a rollback"
        assert "image-00003" not in client.search(make_png(3), neighbor_count=100).item_ids
    with running(served, config()) as (_, other), Client(other) as client:
        assert [one.name for one in client.list_operations().operations] == [started.name]


def test_an_operation_is_cancelled_and_nothing_has_changed(address: str, served: Store) -> None:
    with Client(address) as client:
        started = client.start_refresh(["new"])
        ended = client.cancel_operation(started.name)
        assert ended.done
        assert isinstance(ended.error, CancelledError)
        again = client.cancel_operation(started.name)
        assert (again.stage, again.end_time) == (ended.stage, ended.end_time) == ("cancelled", ended.end_time)
        assert client.get_active_snapshot().name == "snapshots/000001"
        assert served.versions("snapshots") == ["000001"]
        again = client.start_refresh(["new"])
        assert again.name == "operations/refresh-000002"
        pages = client.list_operations(page_size=1)
        assert [one.name for one in pages.operations] == [again.name]
        rest = client.list_operations(page_size=1, page_token=pages.next_page_token)
        assert ([one.name for one in rest.operations], rest.next_page_token) == ([started.name], "")
        client.cancel_operation(again.name)


def test_a_failure_says_why_without_telling_paths(address: str, corpus: Path) -> None:
    with Client(address) as client:
        done = wait_for(client, client.start_refresh(["gone"]).name)
        assert isinstance(done.error, OperationFailedError)
        assert "gone" in done.error.message
        assert corpus.name not in done.error.message


def test_what_a_caller_may_not_name_is_refused(address: str, served: Store) -> None:
    with Client(address) as client:
        for name in ("/etc", "new=/etc", "New"):
            with pytest.raises(InvalidArgumentError, match="names no corpus"):
                client.start_refresh([name])
        for name in ("operations/refresh-000009", "", "../x", "refresh-000001"):
            with pytest.raises(NotFoundError):
                client.get_operation(name)
            with pytest.raises(NotFoundError):
                client.cancel_operation(name)
        with pytest.raises(InvalidArgumentError):
            client.list_operations(page_token="x")
        with pytest.raises(InvalidArgumentError, match="wait"):
            client.get_operation("x", wait_s=-1)
    refused = pytest.raises(FailedPreconditionError, match=r"refresh\.enabled")
    with running(served, config()) as (_, other), Client(other) as client, refused:
        client.start_refresh()
    with pytest.raises(InvalidConfigError):
        load_config(None, assignments=['refresh.corpora=["/data"]'])


def sleeper(operations: Operations, monkeypatch: pytest.MonkeyPatch, script: str, *, kill_after_s: float = 0.3) -> str:
    """Starts an operation whose command is a script; returns its name."""
    spawn = Operations._spawn

    def instead(self: Operations, directory: Path, job: Job, lock_fd: int) -> None:
        spawn(self, directory, replace(job, command=[sys.executable, "-c", script], kill_after_s=kill_after_s), lock_fd)

    monkeypatch.setattr(Operations, "_spawn", instead)
    return operations.start_refresh(RefreshAsk()).name


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("verifying", os.getpid(), file=sys.stderr, flush=True)
time.sleep(100)
"""
ALLOWED = RefreshJobConfig(enabled=True, corpora={"a": "b"})


HARD_OF_HEARING = """
import os, sys, time
print("verifying", os.getpid(), file=sys.stderr, flush=True)
try:
    time.sleep(100)
except KeyboardInterrupt:
    time.sleep(100)
"""


def pid_of(operations: Operations, name: str) -> int:
    deadline = time.monotonic() + 20
    while not operations.get(name).stage.startswith("verifying"):
        assert time.monotonic() < deadline, operations.get(name)
        time.sleep(0.02)
    return int(operations.get(name).stage.split()[1])


def ended(operations: Operations, name: str) -> OperationState:
    deadline = time.monotonic() + 20
    while not operations.get(name).done:
        assert time.monotonic() < deadline, operations.get(name)
        time.sleep(0.02)
    return operations.get(name)


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_what_does_not_stop_is_killed_and_progress_is_seen(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations(served, ALLOWED)
    name = sleeper(operations, monkeypatch, STUBBORN)
    pid = pid_of(operations, name)
    assert operations.get(name).progress == 0.8
    operations.ask_to_stop(name)
    assert ends(pid)
    assert ended(operations, name).state == "cancelled"
    operations.close()


def test_an_interrupt_that_the_command_missed_is_sent_again(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations(served, ALLOWED)
    name = sleeper(operations, monkeypatch, HARD_OF_HEARING, kill_after_s=60)
    pid = pid_of(operations, name)
    operations.ask_to_stop(name)
    assert ends(pid)
    assert ended(operations, name).state == "cancelled"
    operations.close()


def test_a_server_that_is_gone_leaves_no_process_behind(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations(served, ALLOWED)
    name = sleeper(operations, monkeypatch, STUBBORN)
    pid = pid_of(operations, name)
    operations.close()
    assert ends(pid)
    later = Operations(served, ALLOWED)
    assert ended(later, name).state == "interrupted"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process die with its parent")
def test_a_runner_that_is_killed_is_reported_as_interrupted(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = Operations(served, ALLOWED)
    name = sleeper(operations, monkeypatch, STUBBORN)
    pid = pid_of(operations, name)
    runner = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(runner, signal.SIGKILL)
    assert ends(pid)
    state = ended(operations, name)
    assert (state.state, state.failure and state.failure.reason) == ("interrupted", "OPERATION_INTERRUPTED")
    operations.close()


def test_only_the_newest_operations_are_kept(served: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.operations._KEPT", 3)
    operations = Operations(served, ALLOWED)
    for _ in range(5):
        name = sleeper(operations, monkeypatch, "print('{}')")
        monkeypatch.undo()
        monkeypatch.setattr("serving.operations._KEPT", 3)
        assert ended(operations, name).state == "succeeded"
    assert len(list((served.root / FOLDER).glob("refresh-*"))) == 3
    operations.close()


def test_the_command_starts_lists_and_waits(address: str) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(operations_command, ["--address", address, *words], catch_exceptions=False)
        assert result.exit_code == 0
        return result.stdout

    assert json.loads(run("--json")) == {"operations": []}
    done = json.loads(run("--refresh", "--corpus", "new", "--wait", "--json"))
    assert done["result"]["snapshot"] == "snapshots/000002"
    assert "refresh-000001" in run()
    assert json.loads(run(done["name"], "--json"))["done"]

    async def ask() -> None:
        async with AsyncClient(address) as client:
            assert (await client.get_operation(done["name"])).done

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--cancel"], "name of an operation"), (["--wait"], "wants the name"), (["a", "--refresh"], "leave out NAME")],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], message: str) -> None:
    result = CliRunner().invoke(operations_command, ["--address", "127.0.0.1:1", *words])
    assert message in str(result.exception)
