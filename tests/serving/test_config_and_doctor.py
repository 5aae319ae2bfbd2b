"""The configuration file says every key with its default; the doctor says what is wrong in words."""

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

import serving.config
from index.delta import Delta
from serving.board import Board
from serving.commands import doctor
from serving.config import ServeConfig, is_loopback, load_config
from serving.doctor import examine
from serving.threads import limit_threads, take_free_cores
from serving.worker import core_count
from tests.serving.conftest import DIMENSION, add_snapshot, make_items, make_vectors
from vicinal.config import read_toml, to_mapping
from vicinal.errors import InvalidConfigError
from vicinal.store import Store
from vicinal.types import Metric

FILE = Path(serving.config.__file__).parent / "config.toml"


def test_the_documented_file_is_every_key_with_its_default() -> None:
    assert read_toml(FILE) == to_mapping(ServeConfig())
    assert load_config(FILE) == ServeConfig()


def test_later_wins(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("[listen]\nport = 1\nprocesses = 3\ndrain_s = 4.0\n", encoding="utf-8")
    environ = {"VICINAL_SERVE__LISTEN__PORT": "2", "VICINAL_SERVE__LISTEN__PROCESSES": "5", "OTHER": "x"}
    found = load_config(path, assignments=["listen.port=7"], environ=environ).listen
    assert (found.port, found.processes, found.drain_s) == (7, 5, 4.0)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("listen.prot=1", "did you mean 'port'"),
        ("lisen.port=1", "did you mean 'listen'"),
        ("listen.port=70000", "wanted 0 to 65535"),
        ("listen.port=many", "wrong value"),
        ("limits.max_in_flight=0", "wanted 1 to"),
        ("observe.log_level=loud", "debug, info, warning or error"),
    ],
)
def test_wrong_settings_are_told(assignment: str, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        load_config(None, assignments=[assignment])


def test_wrong_environment_names_its_variable() -> None:
    with pytest.raises(InvalidConfigError, match="unknown key"):
        load_config(None, environ={"VICINAL_SERVE__LISTEN__PROT": "1"})


def test_loopback_is_known() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.3.4.5", "::1", "[::1]", "localhost", "unix:/tmp/x"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"))


def test_a_healthy_workspace_is_all_right(vector_store: Store, image_store: Store) -> None:
    for store in (vector_store, image_store):
        findings = examine(store.root, load_config(None, assignments=["listen.port=0"]), verify=True)
        assert [finding for finding in findings if finding.state == "error"] == []
        assert any("every file is whole" in finding.message for finding in findings)


def test_what_is_wrong_is_said_in_words(store: Store, tmp_path: Path) -> None:
    def messages(*assignments: str, root: Path = store.root) -> str:
        config = load_config(None, assignments=["listen.port=0", *assignments])
        return "\n".join(f.message for f in examine(root, config, verify=True) if f.state != "ok")

    assert "vicinal publish" in messages()
    assert "is not a Vicinal workspace" in messages(root=tmp_path / "none")
    assert "vicinal keys add" in messages(f"auth.keys_file={tmp_path / 'none.json'}")
    assert "anybody who reaches it" in messages("listen.host=0.0.0.0", "listen.insecure=true")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "a server may be running" in messages(f"listen.port={taken.getsockname()[1]}")


def test_changes_that_wait_for_a_refresh_are_told(store: Store) -> None:
    add_snapshot(store, make_vectors(30), fingerprint="ab" * 32)
    store.activate("1")

    def changes() -> tuple[str, str]:
        config = load_config(None, assignments=["listen.port=0", "limits.max_pending_items=4"])
        return next((f.state, f.message) for f in examine(store.root, config, verify=False) if f.what == "changes")

    assert changes() == ("ok", "no items were upserted or deleted since")
    delta = Delta(store, fingerprint="ab" * 32, dimension=DIMENSION, metric=Metric.L2)
    delta.delete(["item-00001"])
    assert changes()[0] == "ok"
    delta.upsert(make_items(2, prefix="new"), make_vectors(2))
    state, message = changes()
    assert state == "warning"
    assert "3 items were upserted or deleted" in message
    assert "vicinal refresh" in message


def test_the_doctor_command_exits_1_when_something_is_wrong(vector_store: Store, tmp_path: Path) -> None:
    runner = CliRunner()
    good = runner.invoke(doctor, ["-w", str(vector_store.root), "--set", "listen.port=0", "--quick", "--json"])
    assert good.exit_code == 0, good.output
    assert any("checksums were not compared" in one["message"] for one in json.loads(good.output)["findings"])
    bad = runner.invoke(doctor, ["-w", str(tmp_path / "none"), "--set", "listen.port=0"])
    assert bad.exit_code == 1
    assert "error" in bad.output


def test_work_that_is_alone_takes_all_cores_and_else_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(2, ["/a"])
    for slab in board.slabs():
        slab["live"] = 1
    assert take_free_cores(board) == core_count()
    board.slab(1)["in_flight"] = 10_000
    assert take_free_cores(board) == 1
    board.slab(1)["in_flight"] = 0
    take_free_cores(board)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads(10_000)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    limit_threads(1)
    assert os.environ["OMP_NUM_THREADS"] == "3"
