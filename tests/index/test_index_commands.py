"""The commands of the index stage, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from index import commands
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.errors import InvalidConfigError, NoActiveSnapshotError
from vicinal.store import Store
from vicinal.types import JsonObject


def run(command: object, *arguments: object) -> JsonObject:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    value: JsonObject = json.loads(result.stdout)
    return value


@pytest.fixture
def workspace(store: Store, add_embeddings: AddEmbeddings) -> Path:
    add_embeddings(clustered(900, 12))
    return store.root


def test_build_evaluate_publish_rollback_and_gc(workspace: Path) -> None:
    built = run(commands.build, "-w", workspace, "--json", "--kind", "hnsw", "--set", "link_count=8")
    assert (built["snapshot"], built["kind"], built["count"]) == ("snapshots/000001", "hnsw", 900)
    assert built["recall"] > 0.9
    assert built["p50_us"] > 0
    measured = run(commands.evaluate, "-w", workspace, "--json", "--queries", 50)
    assert measured["snapshot"] == "snapshots/000001"
    assert measured["curve"]
    published = run(commands.publish, "-w", workspace, "--json")
    assert (published["snapshot"], published["generation"]) == ("snapshots/000001", 1)
    assert {check["name"] for check in published["checks"]} == {"recall", "shrink"}
    for _ in range(3):
        run(commands.build, "-w", workspace, "--json", "--kind", "flat")
    run(commands.publish, "4", "-w", workspace, "--json")
    assert run(commands.rollback, "-w", workspace, "--json")["snapshot"] == "snapshots/000001"
    assert run(commands.gc, "-w", workspace, "--json", "--keep", 1)["removed"] == [
        "snapshots/000002",
        "snapshots/000003",
    ]
    listed = run(commands.versions, "-w", workspace, "--json")
    assert listed["active"] == "snapshots/000001"
    assert [entry["name"] for entry in listed["snapshots"]] == ["snapshots/000001", "snapshots/000004"]


@pytest.mark.parametrize("arguments", [["--kind", "hnsw"], ["--kind", "flat"]])
def test_tables_are_printed_for_people(workspace: Path, arguments: list[str]) -> None:
    runner = CliRunner()
    for command, extra in (
        (commands.build, arguments),
        (commands.evaluate, ["--queries", "20"]),
        (commands.publish, []),
        (commands.versions, []),
        (commands.gc, []),
    ):
        result = runner.invoke(command, ["-w", str(workspace), *extra], catch_exceptions=False)
        assert result.exit_code == 0
        assert "000001" in result.output or "nothing to remove" in result.output


def test_a_misspelt_parameter_is_named_and_nothing_built(workspace: Path) -> None:
    with pytest.raises(InvalidConfigError, match="did you mean 'link_count'"):
        run(commands.build, "-w", workspace, "--kind", "hnsw", "--set", "link_cont=8")
    assert Store(workspace).versions("snapshots") == []


def test_rollback_without_anything_published_says_so(workspace: Path) -> None:
    with pytest.raises(NoActiveSnapshotError):
        run(commands.rollback, "-w", workspace)


def test_numpy_values_become_json(workspace: Path) -> None:
    assert json.loads(json.dumps({"a": np.float32(0.5)}, default=commands._plain)) == {"a": 0.5}
