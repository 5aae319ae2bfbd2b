"""LabelService over a real server: labels, history, files, a stored set that classifies; by both clients."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from serving.labels.formats import FORMATS
from tests.serving.labelled_workspace import CLASSES, first, item_id, made_workspace, running_server
from vicinal.client import AsyncClient, Client, Label
from vicinal.errors import (
    AlreadyExistsError,
    CorruptArtifactError,
    InvalidArgumentError,
    InvalidLabelError,
    ItemNotFoundError,
    LabelSetNotFoundError,
)


def test_labels_are_put_listed_and_taken_off(client: Client, name: str) -> None:
    batch = client.put_labels(name, [*first(3), Label(item_id="gone.png", negative=True, confidence=0.5)])
    assert (batch.number, batch.verb, batch.change_count, batch.missing_count) == (1, "put", 4, 1)
    page = client.list_labels(name)
    assert [one.item_id for one in page.labels] == sorted([*(item_id(i) for i in range(3)), "gone.png"])
    gone = next(one for one in page.labels if one.item_id == "gone.png")
    assert (gone.negative, gone.label, gone.source) == (True, "", "human")
    assert gone.snapshot == "snapshots/000001"
    assert gone.confidence == pytest.approx(0.5)
    found = client.get_label_set(name)
    assert (found.classes, found.negative_count, found.missing_count) == ({"bird": 1, "boat": 1, "shoe": 1}, 1, 1)
    assert client.remove_labels(name, [Label(item_id="gone.png")], author="bob").change_count == 1
    assert client.get_label_set(name, version=1).negative_count == 1
    assert client.get_label_set(name).negative_count == 0
    assert name in " ".join(one.name for one in client.list_label_sets())


def test_pages_stay_on_one_version_while_labels_change(client: Client, name: str) -> None:
    client.put_labels(name, first(25))
    page = client.list_labels(name, page_size=10)
    client.remove_labels(name, [Label(item_id=one.item_id) for one in first(25)])
    seen = [one.item_id for one in page.labels]
    while page.next_page_token:
        page = client.list_labels(name, page_size=10, page_token=page.next_page_token)
        seen += [one.item_id for one in page.labels]
    assert seen == sorted(item_id(i) for i in range(25))
    assert client.list_labels(name).labels == []
    for token in ("nonsense", "WzFd"):
        with pytest.raises(InvalidArgumentError, match="page_token"):
            client.list_labels(name, page_token=token)


def test_history_is_undone_and_redone(client: Client, name: str) -> None:
    client.put_labels(name, first(4))
    client.rename_class(name, "boat", "ship")
    assert client.rename_class(name, "bird", "ship").merged
    undone = client.undo_batch(name, author="ann")
    assert (undone.verb, undone.target) == ("undo", 3)
    assert client.get_label_set(name).classes == {"bird": 1, "ship": 1, "shoe": 1, "tree": 1}
    assert client.redo_batch(name).target == 3
    assert client.get_label_set(name).classes == {"ship": 2, "shoe": 1, "tree": 1}
    assert [one.verb for one in client.list_batches(name)] == ["redo", "undo", "rename", "rename", "put"]
    batch = client.delete_label_set(name)
    with pytest.raises(LabelSetNotFoundError, match="deleted"):
        client.list_labels(name)
    client.undo_batch(name, batch.number)
    assert len(client.list_labels(name).labels) == 4


def test_a_repeated_request_is_one_batch(client: Client, name: str) -> None:
    numbers = {client.put_labels(name, first(3), request_id="once").number for _ in range(3)}
    assert numbers == {1}


def test_conflicts_are_listed(client: Client, name: str) -> None:
    client.put_labels(name, first(3, author="ann"))
    client.put_labels(name, [Label(item_id=item_id(1), label="shoe", author="bob")])
    (conflict,) = client.list_conflicts(name)
    assert conflict.item_id == item_id(1)
    assert [(one.author, one.label) for one in conflict.labels] == [("bob", "shoe"), ("ann", "bird")]


def test_a_stored_set_classifies_and_a_new_label_makes_a_new_fit(client: Client, name: str) -> None:
    client.put_labels(name, [*first(40), Label(item_id="gone.png", label="boat")])
    found = client.classify([item_id(i) for i in range(100, 140)], support=name)
    assert found.label_set_version == 1
    assert (found.classifier.example_count, found.classifier.missing_count) == (40, 1)
    said = [one.label for one in found.results]  # type: ignore[union-attr]
    assert np.mean([label == CLASSES[i % 4] for i, label in enumerate(said, 100)]) > 0.95
    client.rename_class(name, "boat", "ship")
    again = client.classify([item_id(100)], support=name)
    assert again.label_set_version == 2
    assert "ship" in again.results[0].probabilities  # type: ignore[union-attr]
    pinned = client.classify([item_id(100)], support=(name, 1))
    assert pinned.label_set_version == 1
    assert "boat" in pinned.results[0].probabilities  # type: ignore[union-attr]
    with pytest.raises(LabelSetNotFoundError, match="versions 0 to 2"):
        client.classify([item_id(100)], support=(name, 9))


@pytest.mark.parametrize("file_format", sorted(FORMATS))
def test_export_and_import_keep_every_label(client: Client, name: str, file_format: str) -> None:
    awkward = [
        Label(item_id='a, "b"\n/ü.png', label='say "hi", ok', author="ann"),
        Label(item_id="n.png", negative=True, author="ann"),
        Label(item_id="p.png", label="boat", author="ann", source="propagated", confidence=0.25),
    ]
    client.put_labels(name, [*first(20), *awkward])
    content = client.export_labels(name, file_format)
    copy = f"{name}-copy"
    client.create_label_set(copy)
    batch = client.import_labels(copy, file_format, content, author="bob", request_id="i1")
    assert client.import_labels(copy, file_format, content, request_id="i1").number == batch.number
    assert (batch.verb, batch.change_count, batch.missing_count) == ("import", 23, 3)
    before = [(one.item_id, one.label, one.negative) for one in client.list_labels(name).labels]
    after = client.list_labels(copy).labels
    assert [(one.item_id, one.label, one.negative) for one in after] == before
    assert {one.source for one in after} == {"imported"}
    assert client.export_labels(name, file_format, version=0) is not None


def test_a_wrong_file_imports_nothing(client: Client, name: str) -> None:
    for file_format in sorted(FORMATS):
        for content in (b"", b"\x00\xff garbage", b"[1, 2", b"a,b\n1,2\n", b'{"images": 3}\n'):
            with pytest.raises(InvalidLabelError):
                client.import_labels(name, file_format, content)
    with pytest.raises(InvalidLabelError, match="two labels"):
        client.import_labels(name, "csv", b"item_id,label\na,x\na,y\n")
    with pytest.raises(InvalidLabelError, match="line 3"):
        client.import_labels(name, "csv", b"item_id,label\na,x\nb,\n")
    with pytest.raises(InvalidArgumentError, match="did you mean 'csv'"):
        client.import_labels(name, "cvs", b"")
    with pytest.raises(InvalidArgumentError, match="unknown format"):
        client.export_labels(name, "pickle")
    with pytest.raises(InvalidArgumentError, match="bytes of a file"):
        client.import_labels(name, "csv", "text")  # type: ignore[arg-type]
    assert client.list_batches(name) == []


def test_bad_requests_have_one_clear_answer(client: Client, name: str) -> None:
    with pytest.raises(AlreadyExistsError, match=name):
        client.create_label_set(name)
    with pytest.raises(InvalidLabelError, match="0 labels"):
        client.put_labels(name, [])
    with pytest.raises(InvalidLabelError, match="1 to 256 bytes"):
        client.put_labels(name, [Label(item_id="a", label="x" * 2**20)])
    with pytest.raises(ItemNotFoundError, match=r"not in snapshots/000001.*gone\.png.*nothing was"):
        client.put_labels(name, [*first(2), Label(item_id="gone.png", label="x")], known_items_only=True)
    with pytest.raises(InvalidArgumentError, match="negative and has the label"):
        client.put_labels(name, [Label(item_id="a", label="x", negative=True)])
    with pytest.raises(InvalidArgumentError, match="human, propagated, imported"):
        client.put_labels(name, [Label(item_id="a", label="x", source="guess")])
    with pytest.raises(InvalidArgumentError, match="page_size"):
        client.list_labels(name, page_size=-1)
    with pytest.raises(LabelSetNotFoundError, match="did you mean"):
        client.put_labels(name[:-1], first(1))
    assert client.list_batches(name) == []


def test_two_writers_at_once_lose_nothing(client: Client, name: str) -> None:
    async def write() -> None:
        async with AsyncClient(client.address) as other:
            puts = [
                other.put_labels(name, [Label(item_id=f"{n}-{i}", label="boat") for i in range(10)], request_id=f"r{n}")
                for n in range(20)
            ]
            await asyncio.gather(*puts)

    asyncio.run(write())
    assert client.get_label_set(name).classes == {"boat": 200}
    assert [one.number for one in client.list_batches(name)] == list(range(20, 0, -1))


def test_the_asyncio_client_streams_files_too(client: Client, name: str) -> None:
    client.put_labels(name, first(5))

    async def copy() -> int:
        async with AsyncClient(client.address) as other:
            content = await other.export_labels(name, "jsonl")
            await other.create_label_set(f"{name}-two", multi_label=True)
            return (await other.import_labels(f"{name}-two", "jsonl", content)).change_count

    assert asyncio.run(copy()) == 5


def test_a_damaged_log_is_one_clear_error_and_search_goes_on(tmp_path: Path) -> None:
    store = made_workspace(tmp_path / "workspace", count=40)
    with running_server(store) as address, Client(address) as client:
        (store.root / "labels" / "labels.db").write_bytes(b"")
        with pytest.raises(CorruptArtifactError, match="is empty"):
            client.list_label_sets()
        with pytest.raises(CorruptArtifactError, match="label log"):
            client.classify([item_id(1)], support="any")
        assert client.search(item_id(1)).item_ids


def test_hundreds_of_classes_of_one_example_are_answered(client: Client, name: str) -> None:
    labels = [Label(item_id=item_id(i), label=f"c{i}") for i in range(400)]
    client.put_labels(name, labels)
    said = client.classify([item_id(5)], support=name, classifier="auto")
    assert said.classifier.class_count == 400
    assert said.results[0].label == "c5"  # type: ignore[union-attr]
