"""The shell client: tables, JSON, and a sheet of the neighbors of a query."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from index.build import BuildConfig, build
from tests.serving.conftest import config, make_items, make_vectors, running
from tests.serving.images import make_png
from vicinal.client.commands import query, snapshots
from vicinal.corpus import open_corpora
from vicinal.embeddings import EmbeddingsInfo, write_embeddings
from vicinal.errors import FailedPreconditionError, UnavailableError
from vicinal.items import Item
from vicinal.store import Store
from vicinal.types import Metric


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A snapshot of made vectors whose items are the images of a folder."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(make_png(number))
    with open_corpora([str(folder)])[0] as corpus:
        names = [item.item_id for item in corpus]
    base = make_items(len(names))
    items = [
        Item(item_id=name, digest=one.digest, source=str(folder), path=name, added_at=one.added_at)
        for name, one in zip(names, base, strict=True)
    ]
    store = Store.create(tmp_path_factory.mktemp("workspace") / "workspace")
    with store.stage("embeddings") as staging:
        info = EmbeddingsInfo(dimension=16, metric=Metric.L2, corpora=(str(folder),))
        write_embeddings(staging.path, make_vectors(12), items, info=info)
        version = staging.commit()
    build(store, embeddings=version, config=BuildConfig(kind="flat", query_count=10))
    store.activate("1")
    return store


def test_query_prints_a_table_json_and_a_sheet(store: Store, tmp_path: Path) -> None:
    runner, sheet = CliRunner(), tmp_path / "sheet.png"
    with running(store, config()) as (_, address):
        words = ["03.png", "--address", address, "-n", "4"]
        table = runner.invoke(query, [*words, "--sheet", str(sheet), "-w", str(store.root)], catch_exceptions=False)
        assert "snapshots/000001" in table.output
        found = json.loads(runner.invoke(query, [*words, "--json", "--item-id"]).output)
        assert len(found["neighbors"]) == 4
        assert found["strategy"] == "exact"
        other = runner.invoke(query, [*words, "--sheet", str(sheet), "-w", str(tmp_path / "none")])
        assert "is not a Vicinal workspace" in str(other.exception)
    with Image.open(sheet) as image:
        assert image.width > image.height


def test_a_sheet_of_images_that_have_gone_says_so(store: Store, tmp_path: Path) -> None:
    from vicinal.client import Client
    from vicinal.sheets import write_sheet

    with running(store, config()) as (_, address), Client(address) as client:
        found = client.search("03.png", neighbor_count=2)
    with pytest.raises(FailedPreconditionError, match="none of the images"):
        write_sheet(store.root, found, query="nobody.png", path=tmp_path / "sheet.png")


def test_snapshots_lists_and_activates(store: Store) -> None:
    runner = CliRunner()
    with running(store, config()) as (_, address):
        listed = runner.invoke(snapshots, ["--address", address], catch_exceptions=False)
        assert "* serving" in listed.output
        moved = runner.invoke(snapshots, ["snapshots/000001", "--address", address], catch_exceptions=False)
        assert "snapshots/000001 is active (generation" in moved.output
    gone = runner.invoke(snapshots, ["--address", address, "--timeout", "0.2"])
    assert isinstance(gone.exception, UnavailableError)
