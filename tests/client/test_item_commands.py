"""``vicinal items`` against a real server: what is put is found, shown and deleted."""

import json
from pathlib import Path

from click.testing import CliRunner

from tests.serving.conftest import add_image_snapshot, config, running
from tests.serving.images import make_png
from vicinal.client import Client
from vicinal.client.item_commands import items
from vicinal.errors import InvalidArgumentError
from vicinal.store import Store


def test_items_are_put_shown_and_deleted(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_image_snapshot(store)
    store.activate("1")
    files = []
    for number in range(70):
        path = tmp_path / f"{number}.png"
        path.write_bytes(make_png(700 + number))
        files.append(str(path))
    with running(store, config()) as (_, address), Client(address) as client:

        def run(*words: str) -> str:
            result = CliRunner().invoke(items, [words[0], "--address", address, *words[1:]], catch_exceptions=False)
            assert result.exit_code == 0
            return result.stdout

        done = json.loads(run("put", *files, "--prefix", "x:", "--set", "shelf=7", "--set", "room=a", "--json"))
        assert done == {"upserted_count": 70, "snapshot": "snapshots/000001"}
        assert client.search(make_png(769), neighbor_count=1).item_ids == [f"x:{files[69]}"]
        shown = json.loads(run("show", f"x:{files[3]}", "--json"))
        assert (shown["metadata"]["shelf"], shown["metadata"]["room"], shown["source"]) == (7, "a", "api")
        assert "shelf" in run("show", f"x:{files[3]}")
        assert "1 items put" in run("put", files[0], "--item-id", "one")
        assert json.loads(run("delete", "one", "two", "--json")) == {"deleted_count": 1, "unknown_count": 1}
        for words, message in (
            (["put", files[0], files[1], "--item-id", "one"], "several files"),
            (["put", str(tmp_path / "none")], "cannot read"),
            (["put", files[0], "--set", "nothing"], "COLUMN=VALUE"),
        ):
            result = CliRunner().invoke(items, [words[0], "--address", address, *words[1:]])
            assert isinstance(result.exception, InvalidArgumentError)
            assert message in result.exception.message
