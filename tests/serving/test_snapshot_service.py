"""SnapshotService: listing, activating, items; what is damaged never gets into service."""

from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import add_snapshot, config, make_items, make_vectors, running
from vicinal.client import Client
from vicinal.errors import (
    CorruptArtifactError,
    FailedPreconditionError,
    InvalidArgumentError,
    ItemNotFoundError,
    NoActiveSnapshotError,
    SnapshotNotFoundError,
)
from vicinal.store import Store
from vicinal.types import Metric


@pytest.fixture
def three(store: Store) -> Store:
    """Three snapshots of other sizes; the first is active."""
    for count in (30, 40, 50):
        add_snapshot(store, make_vectors(count, seed=count))
    store.activate("1")
    return store


def test_the_active_snapshot_is_described(client: Client) -> None:
    found = client.get_active_snapshot()
    assert (found.name, found.item_count, found.dimension) == ("snapshots/000001", 500, 16)
    assert (found.metric, found.kind, found.active, found.encoder) == (Metric.L2, "flat", True, "")
    assert found.size_bytes > 500 * 16 * 4
    assert found.curve[0].recall == 1.0
    assert found.curve[0].p50_s > 0


def test_snapshots_are_listed_newest_first_in_pages(three: Store) -> None:
    with running(three, config()) as (_, address), Client(address) as client:
        first = client.list_snapshots(page_size=2)
        assert [one.name for one in first.snapshots] == ["snapshots/000003", "snapshots/000002"]
        second = client.list_snapshots(page_size=2, page_token=first.next_page_token)
        assert [(one.name, one.active) for one in second.snapshots] == [("snapshots/000001", True)]
        assert second.next_page_token == ""
        with pytest.raises(InvalidArgumentError):
            client.list_snapshots(page_size=-1)
        for token in ("x", "eyJ9", client.list_items(page_size=1).next_page_token):
            with pytest.raises(InvalidArgumentError, match="page_token"):
                client.list_snapshots(page_token=token)


def test_activate_serves_another_snapshot_at_once_and_rolls_back(three: Store) -> None:
    with running(three, config()) as (_, address), Client(address) as client:
        assert client.activate_snapshot("snapshots/000003").generation == 2
        assert client.search("item-00049").snapshot.name == "snapshots/000003"
        assert client.activate_snapshot("1").generation == 3
        reply = client.search("item-00001")
        assert (reply.snapshot.name, reply.snapshot.generation) == ("snapshots/000001", 3)
        assert three.active().snapshot == "000001"
        with pytest.raises(ItemNotFoundError):
            client.search("item-00049")
        pinned = client.search("item-00049", snapshot="snapshots/000003")
        assert (pinned.snapshot.name, pinned.snapshot.generation) == ("snapshots/000003", 2)
        assert client.search("item-00049", snapshot="snapshots/000003").snapshot.generation == 2


def test_a_snapshot_that_is_unknown_or_damaged_changes_nothing(three: Store) -> None:
    vectors = three.root / "snapshots" / "000002" / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-5] ^= 1
    vectors.unlink()
    vectors.write_bytes(content)
    with running(three, config()) as (_, address), Client(address) as client:
        with pytest.raises(CorruptArtifactError, match=r"vectors\.npy has changed") as caught:
            client.activate_snapshot("snapshots/000002")
        assert caught.value.metadata["file"] == "vectors.npy"
        assert str(three.root) not in caught.value.message
        with pytest.raises(SnapshotNotFoundError):
            client.activate_snapshot("snapshots/000009")
        with pytest.raises(InvalidArgumentError):
            client.activate_snapshot("")
        assert client.get_active_snapshot().name == "snapshots/000001"
        assert three.active().snapshot == "000001"


def test_a_damaged_manifest_does_not_break_the_list(three: Store) -> None:
    (three.root / "snapshots" / "000002" / "manifest.json").write_text("{", encoding="utf-8")
    with running(three, config()) as (_, address), Client(address) as client:
        assert [one.name for one in client.list_snapshots().snapshots] == ["snapshots/000003", "snapshots/000001"]


def test_a_server_on_one_fixed_snapshot_ignores_the_alias(three: Store) -> None:
    with running(three, config(), fixed="snapshots/000002") as (_, address), Client(address) as client:
        three.activate("3")
        assert client.search("item-00001").snapshot.name == "snapshots/000002"
        with pytest.raises(FailedPreconditionError, match="--snapshot"):
            client.activate_snapshot("snapshots/000003")


def test_an_empty_workspace_is_served_until_something_is_published(store: Store) -> None:
    with running(store, config()) as (_, address), Client(address) as client:
        with pytest.raises(NoActiveSnapshotError, match="vicinal publish"):
            client.get_active_snapshot()
        with pytest.raises(NoActiveSnapshotError):
            client.search("item-00001")
        add_snapshot(store, make_vectors(30))
        assert client.activate_snapshot("snapshots/000001").generation == 1
        assert len(client.search("item-00001")) == 10


def test_items_are_given_alone_and_in_pages(client: Client, vector_store: Store) -> None:
    one = client.get_item("item-00007", include_vector=True)
    assert one.item.path == "item-00007.png"
    assert one.item.metadata == {"price": 7, "name": "n7"}
    np.testing.assert_array_equal(one.vector, make_vectors(500)[7])
    assert client.get_item("item-00007").vector is None
    with pytest.raises(ItemNotFoundError):
        client.get_item("nobody")
    with pytest.raises(InvalidArgumentError):
        client.get_item("")
    seen, token = [], ""
    while True:
        page = client.list_items(page_size=180, page_token=token)
        seen += [item.item_id for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert seen == [item.item_id for item in make_items(500)]


def test_a_page_token_stays_with_its_snapshot(three: Store) -> None:
    with running(three, config()) as (_, address), Client(address) as client:
        token = client.list_items(page_size=25).next_page_token
        client.activate_snapshot("snapshots/000003")
        page = client.list_items(page_token=token)
        assert (page.snapshot.name, len(page.items)) == ("snapshots/000001", 5)
        with pytest.raises(InvalidArgumentError, match="another snapshot"):
            client.list_items(page_token=token, snapshot="snapshots/000003")


def test_the_workspace_path_is_not_told(store: Store, tmp_path: Path) -> None:
    with running(store, config()) as (_, address), Client(address) as client:
        with pytest.raises(SnapshotNotFoundError) as caught:
            client.search("x", snapshot="snapshots/000001")
        assert str(tmp_path) not in caught.value.message
