"""Keys and roles over real connections."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.access import KeyFile, Role, role_needed
from serving.commands import keys as keys_command
from serving.config import load_config
from serving.security import make_gatekeeper
from serving.server import method_names
from tests.serving.conftest import config, running
from vicinal.client import Client, RetryPolicy, Security
from vicinal.errors import (
    InvalidConfigError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    VicinalError,
)
from vicinal.store import Store

ONCE = RetryPolicy(attempt_count=1)


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(path=tmp_path / "keys.json")


@pytest.fixture
def keyed(vector_store: Store, key_file: KeyFile) -> Iterator[tuple[str, dict[str, str]]]:
    """A server that wants keys, and one key of each role."""
    texts = {role.name.lower(): key_file.add(role.name.lower(), note="test") for role in Role}
    settings = config(f"auth.keys_file={key_file.path}")
    with running(vector_store, settings, gatekeeper=make_gatekeeper(settings)) as (_, address):
        yield address, texts


def connect(address: str, key: str = "") -> Client:
    return Client(address, security=Security(api_key=key), retry=ONCE)


def test_a_key_is_wanted_and_a_wrong_one_refused(keyed: tuple[str, dict[str, str]]) -> None:
    address, texts = keyed
    for wrong in ("", "nonsense", "vcl_00000000_x", texts["reader"][:-1], texts["reader"] + "x"):
        with connect(address, wrong) as client, pytest.raises(UnauthenticatedError):
            client.search("item-00001")
    with connect(address, texts["reader"]) as client:
        assert len(client.search("item-00001")) == 10


def test_roles_bound_what_a_key_may_do(keyed: tuple[str, dict[str, str]]) -> None:
    address, texts = keyed
    for role in ("reader", "labeler", "writer"):
        with connect(address, texts[role]) as client:
            assert client.get_active_snapshot().name == "snapshots/000001"
            with pytest.raises(PermissionDeniedError, match=f"needs the role admin, key .* has {role}"):
                client.activate_snapshot("snapshots/000099")
    with connect(address, texts["admin"]) as client, pytest.raises(NotFoundError):
        client.activate_snapshot("snapshots/000099")
    with connect(address, texts["writer"]) as client:
        assert client.delete_items(["nobody"]).unknown_count == 1
    with connect(address, texts["labeler"]) as client, pytest.raises(PermissionDeniedError, match="the role writer"):
        client.delete_items(["nobody"])


def test_keys_are_added_and_revoked_without_a_restart(keyed: tuple[str, dict[str, str]], key_file: KeyFile) -> None:
    address, texts = keyed
    added = key_file.add("reader")
    key_file.revoke(texts["reader"].split("_")[1])
    outcomes: dict[str, bool] = {}
    deadline = time.monotonic() + 10
    while outcomes != {"added": True, "revoked": False} and time.monotonic() < deadline:
        for name, text in (("added", added), ("revoked", texts["reader"])):
            with connect(address, text) as client:
                try:
                    client.search("item-00001")
                    outcomes[name] = True
                except UnauthenticatedError:
                    outcomes[name] = False
        time.sleep(0.1)
    assert outcomes == {"added": True, "revoked": False}


def test_a_file_damaged_while_serving_keeps_the_old_keys(keyed: tuple[str, dict[str, str]], key_file: KeyFile) -> None:
    address, texts = keyed
    key_file.path.write_text("{", encoding="utf-8")
    time.sleep(1.1)
    with connect(address, texts["reader"]) as client:
        assert len(client.search("item-00001")) == 10


def test_the_file_holds_no_secret_and_is_the_owners_alone(key_file: KeyFile) -> None:
    text = key_file.add("admin")
    assert text.split("_", 2)[2] not in key_file.path.read_text()
    assert key_file.path.stat().st_mode & 0o077 == 0


def test_an_expired_key_is_refused(vector_store: Store, key_file: KeyFile) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    text = key_file.add("reader", expires_at=past)
    settings = config(f"auth.keys_file={key_file.path}")
    with (
        running(vector_store, settings, gatekeeper=make_gatekeeper(settings)) as (_, address),
        connect(address, text) as client,
        pytest.raises(UnauthenticatedError, match="expired"),
    ):
        client.search("item-00001")


@pytest.mark.parametrize("content", ["", "{}", '{"keys": [{"key_id": "a"}]}', None])
def test_a_damaged_or_missing_file_is_refused_at_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidConfigError, match="vicinal keys add"):
        make_gatekeeper(config(f"auth.keys_file={path}"))


def test_keys_of_unknown_roles_or_dates_are_not_made(key_file: KeyFile) -> None:
    with pytest.raises(InvalidConfigError):
        key_file.add("king")
    with pytest.raises(InvalidConfigError):
        key_file.add("reader", expires_at="tomorrow")
    key_file.add("reader")
    with pytest.raises(NotFoundError):
        key_file.revoke("12345678")


def test_every_rpc_has_a_role_and_what_is_unknown_needs_an_admin() -> None:
    needed = {name.rpartition("/")[2]: role_needed(name) for name in method_names()}
    assert needed["Search"] is needed["StreamSearch"] is needed["Classify"] is needed["ListItems"] is Role.READER
    assert needed["PutLabels"] is needed["UndoBatch"] is needed["AcceptProposals"] is Role.LABELER
    assert needed["UpsertItems"] is needed["DeleteItems"] is Role.WRITER
    assert needed["ActivateSnapshot"] is needed["StartRefresh"] is needed["CancelOperation"] is Role.ADMIN
    assert needed["GetOperation"] is needed["ListOperations"] is Role.READER
    assert role_needed("/some.Service/Anything") is Role.ADMIN


def test_the_keys_command(tmp_path: Path) -> None:
    path = str(tmp_path / "keys.json")
    runner = CliRunner()
    made = runner.invoke(keys_command, ["--keys-file", path, "add", "--role", "labeler", "--note", "ann"])
    key_id = made.output.split("_")[1]
    listed = runner.invoke(keys_command, ["--keys-file", path, "list"]).output
    assert key_id in listed
    assert "labeler" in listed
    assert "ann" in listed
    assert made.output.strip() not in listed
    runner.invoke(keys_command, ["--keys-file", path, "revoke", key_id])
    assert json.loads(Path(path).read_text())["keys"] == []


def test_off_loopback_wants_tls_and_keys(tmp_path: Path) -> None:
    tls = ["tls.certificate=a", "tls.private_key=b"]
    for words in (["listen.host=0.0.0.0"], ["listen.host=10.0.0.1", *tls], ["listen.host=::", "auth.keys_file=k"]):
        with pytest.raises(InvalidConfigError, match="--insecure"):
            load_config(None, assignments=words)
    for words in (
        ["listen.host=0.0.0.0", "listen.insecure=true"],
        ["listen.host=0.0.0.0", *tls, "auth.keys_file=k"],
        ["listen.host=0.0.0.0", *tls, "tls.client_ca=c"],
        ["listen.host=localhost"],
        ["listen.host=::1"],
    ):
        load_config(None, assignments=words)
    for words in (["tls.certificate=a"], ["tls.client_ca=a"], ["tls.client_role=king"]):
        with pytest.raises(VicinalError):
            load_config(None, assignments=words)
