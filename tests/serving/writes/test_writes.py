"""UpsertItems and DeleteItems: on disk when acknowledged, searchable at once, in every reader of a snapshot."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.fewshot import model as models
from tests.serving.conftest import config, make_vectors, running
from tests.serving.images import make_png
from tests.serving.writes.conftest import COUNT, FAR
from vicinal.client import Client, ItemUpsert, Label, SupportExample
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidImageError,
    InvalidVectorError,
    ItemNotFoundError,
    NoActiveSnapshotError,
    NoEncoderError,
    PendingLimitError,
)
from vicinal.store import Store
from vicinal.v1 import types_pb2


def condition(column: str, value: int) -> types_pb2.Filter:
    where = types_pb2.Condition(
        column=column, operator=types_pb2.OPERATOR_IN, values=[types_pb2.Value(int_value=value)]
    )
    return types_pb2.Filter(condition=where)


def labels_of(client: Client, support: Any) -> list[str]:
    return [one.label for one in client.classify([FAR, -FAR], support=support, classifier="prototype").results]  # type: ignore[union-attr]


def test_what_was_upserted_is_found_replaced_and_deleted(client: Client) -> None:
    before = client.search(FAR, neighbor_count=2)
    assert before.snapshot.delta_number == 0
    done = client.upsert_items([ItemUpsert(item_id="new", value=FAR, metadata={"price": 7, "fresh": True})])
    assert (done.upserted_count, done.snapshot.delta_number, done.snapshot.name) == (1, 1, "snapshots/000001")
    found = client.search(FAR, neighbor_count=2, include_items=True)
    assert (found.item_ids[0], found.scores[0], found.snapshot.delta_number) == ("new", 0, 1)
    assert (found.items[0].metadata["fresh"], found.items[0].source, len(found.items[0].digest)) == (True, "api", 64)
    client.upsert_items([ItemUpsert(item_id="new", value=-FAR), ItemUpsert(item_id="item-00003", value=FAR)])
    assert client.search(FAR, neighbor_count=1).item_ids == ["item-00003"]
    assert client.search(-FAR, neighbor_count=1).item_ids == ["new"]
    gone = client.delete_items(["new", "item-00004", "item-00004", "nobody"])
    assert (gone.deleted_count, gone.unknown_count, gone.snapshot.delta_number) == (2, 1, 3)
    active = client.get_active_snapshot()
    assert (active.item_count, active.live_item_count, active.pending_item_count) == (COUNT, COUNT - 1, 3)
    everything = client.search(FAR, neighbor_count=1000).item_ids
    assert len(everything) == len(set(everything)) == COUNT - 1
    assert not {"new", "item-00004"} & set(everything)
    with pytest.raises(ItemNotFoundError):
        client.search("new")


def test_every_form_of_search_agrees_on_added_items(client: Client) -> None:
    x_MD = make_vectors(20, seed=5)
    client.upsert_items(
        [ItemUpsert(item_id=f"new-{n}", value=x, metadata={"price": 1000 + n}) for n, x in enumerate(x_MD)]
    )
    client.delete_items([f"item-{n:05d}" for n in range(0, COUNT, 3)])
    batch = client.batch_search(x_MD, neighbor_count=7)
    listed = client.batch_search([*x_MD], neighbor_count=7)
    streamed = client.stream_search(x_MD, neighbor_count=7)
    for n, (x_D, one, other, third) in enumerate(zip(x_MD, batch, listed, streamed, strict=True)):
        alone = client.search(x_D, neighbor_count=7)
        assert alone.item_ids[0] == f"new-{n}"
        assert alone.item_ids == one.item_ids == other.item_ids == third.item_ids  # type: ignore[union-attr]
        assert f"new-{n}" not in client.search(f"new-{n}", neighbor_count=7).item_ids
    first = client.search(x_MD[0], neighbor_count=5)
    second = client.search(x_MD[0], neighbor_count=5, page_token=first.next_page_token)
    assert first.item_ids + second.item_ids == client.search(x_MD[0], neighbor_count=10).item_ids
    assert client.search(x_MD[0], filter=condition("price", 1003)).item_ids == ["new-3"]
    assert client.search(x_MD[0], filter=condition("price", 3)).item_ids == []
    assert client.search(x_MD[2], excluded_item_ids=["new-2"], neighbor_count=1).item_ids != ["new-2"]


def test_pages_stay_in_place_while_items_change(client: Client) -> None:
    client.upsert_items([ItemUpsert(item_id=f"new-{n}", value=x) for n, x in enumerate(make_vectors(20, seed=5))])
    seen, token = [], ""
    for number in range(100):
        page = client.list_items(page_size=37, page_token=token)
        seen += [item.item_id for item in page.items]
        token = page.next_page_token
        if not token:
            break
        client.upsert_items([ItemUpsert(item_id="new-0", value=FAR)])
        client.delete_items([f"item-{number:05d}"])
    assert [name for name in seen if name != "new-0"] == [
        *(f"item-{n:05d}" for n in range(COUNT)),
        *(f"new-{n}" for n in range(1, 20)),
    ]
    assert len(client.list_items(page_size=1000).items) == client.search(FAR, neighbor_count=1000).__len__()


def test_items_labels_and_examples_see_what_changed(client: Client) -> None:
    client.upsert_items([ItemUpsert(item_id="a", value=FAR), ItemUpsert(item_id="b", value=-FAR)])
    np.testing.assert_array_equal(client.get_item("a", include_vector=True).vector, FAR)
    client.create_label_set("set")
    client.put_labels("set", [Label(item_id="a", label="up"), Label(item_id="b", label="down")])
    assert labels_of(client, "set") == ["up", "down"]
    client.upsert_items([ItemUpsert(item_id="a", value=-FAR), ItemUpsert(item_id="b", value=FAR)])
    assert labels_of(client, "set") == ["down", "up"], "the model was fitted anew"
    assert labels_of(client, [SupportExample(query="a", label="x"), SupportExample(query="b", label="y")]) == ["y", "x"]
    client.delete_items(["item-00009"])
    suggested = client.suggest_next("set", item_count=COUNT, strategy="random").item_ids
    assert "item-00009" not in suggested
    with pytest.raises(ItemNotFoundError):
        client.get_item("item-00009")
    where = types_pb2.Condition(
        column="labels.set", operator=types_pb2.OPERATOR_IN, values=[types_pb2.Value(string_value="up")]
    )
    assert client.search(FAR, filter=types_pb2.Filter(condition=where)).item_ids == ["a"]
    assert client.search(FAR, neighbor_count=3, exclude_duplicates=True).item_ids[0] == "b"


def test_a_model_is_fitted_anew_only_when_its_own_items_change(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[str] = []
    fit = models.fit

    def counted(*args: Any, **options: Any) -> Any:
        fits.append(options["classifier"])
        return fit(*args, **options)

    monkeypatch.setattr(models, "fit", counted)
    client.create_label_set("set")
    client.put_labels("set", [Label(item_id=f"item-{n:05d}", label="ab"[n % 2]) for n in range(10)])
    for name, wanted in (("new", 1), ("newer", 1), ("item-00003", 2), ("item-00100", 2), ("item-00003", 3)):
        labels_of(client, "set")
        client.upsert_items([ItemUpsert(item_id=name, value=FAR)])
        labels_of(client, "set")
        assert len(fits) == wanted, name


def test_a_repeated_request_has_no_further_effect(client: Client) -> None:
    client.upsert_items([ItemUpsert(item_id="a", value=FAR)], request_id="one")
    assert client.delete_items(["a", "x"], request_id="two").deleted_count == 1
    again = client.upsert_items([ItemUpsert(item_id="a", value=FAR)], request_id="one")
    assert (again.upserted_count, again.snapshot.delta_number) == (1, 2)
    repeated = client.delete_items(["a", "x"], request_id="two")
    assert (repeated.deleted_count, repeated.unknown_count) == (1, 1)
    with pytest.raises(ItemNotFoundError):
        client.get_item("a")


def test_wrong_requests_are_refused_whole(client: Client) -> None:
    good = ItemUpsert(item_id="good", value=FAR)
    wrong: list[tuple[type[Exception], str, ItemUpsert]] = [
        (InvalidArgumentError, "1 to 1024 bytes", ItemUpsert(item_id="", value=FAR)),
        (InvalidArgumentError, "1 to 1024 bytes", ItemUpsert(item_id="x" * 1025, value=FAR)),
        (InvalidArgumentError, "twice", ItemUpsert(item_id="good", value=FAR)),
        (InvalidVectorError, "item vector 1 holds NaN", ItemUpsert(item_id="x", value=FAR * np.nan)),
        (DimensionMismatchError, "dimension 3", ItemUpsert(item_id="x", value=[1, 2, 3])),
        (NoEncoderError, "no encoder", ItemUpsert(item_id="x", value=make_png(1))),
        (
            InvalidArgumentError,
            "'price' is int, got string",
            ItemUpsert(item_id="x", value=FAR, metadata={"price": "a"}),
        ),
        (InvalidArgumentError, "not finite", ItemUpsert(item_id="x", value=FAR, metadata={"f": float("nan")})),
        (InvalidArgumentError, "may not be called", ItemUpsert(item_id="x", value=FAR, metadata={"item_id": "a"})),
        (InvalidArgumentError, "may not be called", ItemUpsert(item_id="x", value=FAR, metadata={"labels.x": "a"})),
        (InvalidArgumentError, "65536 bytes", ItemUpsert(item_id="x", value=FAR, metadata={"t": "a" * 70_000})),
        (InvalidArgumentError, "64", ItemUpsert(item_id="x", value=FAR, metadata={f"c{n}": n for n in range(65)})),
    ]
    for cls, message, item in wrong:
        with pytest.raises(cls, match=message):
            client.upsert_items([good, item])
    for items in ([], [ItemUpsert(item_id=f"{n}", value=FAR) for n in range(1001)]):
        with pytest.raises(InvalidArgumentError, match="wanted 1 to 1000"):
            client.upsert_items(items)
    with pytest.raises(InvalidArgumentError, match="request_id"):
        client.upsert_items([good], request_id="x" * 129)
    for ids in ([], [""], ["a"] * 10_001):
        with pytest.raises(InvalidArgumentError):
            client.delete_items(ids)
    assert client.search(FAR).snapshot.delta_number == 0
    client.upsert_items([ItemUpsert(item_id=f"{n}", value=FAR) for n in range(50)])
    with pytest.raises(PendingLimitError, match="vicinal refresh"):
        client.upsert_items([good])
    client.delete_items(["1"])


def test_images_are_embedded_with_the_snapshots_encoder(image_store: Store) -> None:
    with running(image_store, config("limits.max_images=4")) as (_, address), Client(address) as client:
        moment = datetime(2026, 5, 1, tzinfo=UTC)
        items = [ItemUpsert(item_id=f"png-{n}", value=make_png(900 + n), metadata={"when": moment}) for n in range(9)]
        assert client.upsert_items(items).upserted_count == 9
        found = client.search(make_png(905), neighbor_count=1, include_items=True)
        assert found.item_ids == ["png-5"]
        assert found.items[0].metadata["when"] == moment
        with pytest.raises(InvalidImageError, match="item 1"):
            client.upsert_items(
                [ItemUpsert(item_id="a", value=make_png(1)), ItemUpsert(item_id="b", value=b"no image")]
            )
        with pytest.raises(InvalidVectorError, match="no direction"):
            client.upsert_items([ItemUpsert(item_id="a", value=np.zeros(192))])
        client.delete_items([item.item_id for item in items])


def test_nothing_is_written_where_nothing_is_served(store: Store) -> None:
    with running(store, config()) as (_, address), Client(address) as client:
        with pytest.raises(NoActiveSnapshotError):
            client.upsert_items([ItemUpsert(item_id="a", value=FAR)])
        with pytest.raises(NoActiveSnapshotError):
            client.delete_items(["a"])
    assert not (Path(store.root) / "delta").exists()
