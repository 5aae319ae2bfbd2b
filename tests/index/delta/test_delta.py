"""Items added and deleted beside a snapshot: acknowledged means on disk, searchable at once, folded by a refresh."""

import numpy as np
import pytest

from index.delta_writes import Write
from index.filters import Condition
from index.live import LiveSnapshot
from index.search import SearchOptions, search
from index.snapshot import Snapshot
from index.unwanted import Grouping
from tests.index.delta.conftest import COUNT, X, open_delta
from tests.index.made_vectors import make_item
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidVectorError,
    ItemNotFoundError,
)
from vicinal.store import Store


def test_added_replaced_and_deleted_items_are_searched_as_one(store: Store, snapshot: Snapshot) -> None:
    delta = open_delta(store)
    new = [make_item(number, shop="shop-9") for number in range(COUNT, COUNT + 20)]
    assert delta.upsert(new, X[COUNT : COUNT + 20]) == 20
    delta.upsert([make_item(5, shop="shop-9")], X[COUNT + 50 : COUNT + 51])
    delta.delete(["item-000007", "item-000801", "item-unknown"])
    live = LiveSnapshot(snapshot, delta.tail(after=0))
    assert live.item_count == COUNT + 20 - 1 - 1
    truth = {f"item-{n:06d}": X[n] for n in range(COUNT + 20) if n not in {7, 801}}
    truth["item-000005"] = X[COUNT + 50]
    ids, y_ND = list(truth), np.stack(list(truth.values()))
    x_QD = X[COUNT + 60 :]
    for options in (SearchOptions(neighbor_count=10, target_recall=1), SearchOptions(neighbor_count=10)):
        found, _ = search(live, x_QD, options)
        assert (found.counts_Q == 10).all()
        scores_QN = -((x_QD[:, None].astype(np.float64) - y_ND[None]) ** 2).sum(axis=2)
        wanted = -np.sort(-scores_QN, axis=1)[:, :10]
        assert (np.abs(found.scores_QK - wanted) < 1e-3).mean() > 0.97
        for row, rows_K in enumerate(found.rows_QK):
            for item_id, score in zip(live.items.item_ids(rows_K), found.scores_QK[row], strict=True):
                assert abs(scores_QN[row, ids.index(item_id)] - score) < 1e-3


def test_filters_groups_and_own_rows_see_added_items(store: Store, snapshot: Snapshot) -> None:
    delta = open_delta(store)
    items = [make_item(number, shop="shop-9", size=number) for number in range(COUNT, COUNT + 5)]
    delta.upsert(items, X[COUNT : COUNT + 5])
    delta.delete(["item-000003"])
    live = LiveSnapshot(snapshot, delta.tail(after=0))
    where = Condition(column="shop", operator="in", values=("shop-9",))
    found, _ = search(live, X[:2], SearchOptions(neighbor_count=10, filter=where))
    assert found.counts_Q.tolist() == [5, 5]
    assert live.items.item(int(found.rows_QK[0, 0])).metadata["shop"] == "shop-9"
    where = Condition(column="size", operator="greater", values=(COUNT + 2,))
    assert search(live, X[:1], SearchOptions(filter=where))[0].counts_Q.tolist() == [2]
    where = Condition(column="item_id", operator="in", values=("item-000003", "item-000004"))
    assert search(live, X[:1], SearchOptions(filter=where))[0].counts_Q.tolist() == [1]
    grouped, _ = search(live, X[:1], SearchOptions(neighbor_count=10, grouping=Grouping(column="shop")))
    assert grouped.counts_Q.tolist() == [4]
    row = live.items.row("item-000802")
    assert row >= COUNT
    np.testing.assert_array_equal(live.vectors_of(np.array([row, 1])), X[[802, 1]])
    found, _ = search(live, X[802:803], SearchOptions(neighbor_count=3), exclude_rows=np.array([row]))
    assert row not in found.rows_QK
    everything, _ = search(live, X[:1], SearchOptions(neighbor_count=10**6))
    assert everything.counts_Q.tolist() == [COUNT + 4]
    with pytest.raises(ItemNotFoundError):
        live.items.row("item-000003")


def test_everything_is_there_after_a_restart_and_in_other_processes(store: Store) -> None:
    first, second = open_delta(store), open_delta(store)
    first.upsert([make_item(1, price=1.5, made=make_item(0).added_at)], X[:1])
    second.delete(["item-000009"])
    assert first.catch_up()
    assert not first.catch_up()
    assert set(first.changes()) == set(second.changes()) == set(open_delta(store).changes())
    item = open_delta(store).changes()["item-000001"].item
    assert item is not None
    assert item.metadata == {"price": 1.5, "made": make_item(0).added_at}
    assert set(first.changes(after=1)) == {"item-000009"}


def test_a_repeated_request_has_no_further_effect(store: Store) -> None:
    delta = open_delta(store)
    delta.upsert([make_item(1)], X[:1], request_id="a")
    delta.delete(["item-000001"])
    open_delta(store).upsert([make_item(1)], X[:1], request_id="a")
    assert open_delta(store).changes()["item-000001"].item is None


def test_wrong_items_are_refused_before_anything_is_written(store: Store) -> None:
    delta = open_delta(store)
    bad_MD = X[:1].copy()
    bad_MD[0, 0] = np.nan
    with pytest.raises(InvalidVectorError):
        delta.upsert([make_item(1)], bad_MD)
    with pytest.raises(DimensionMismatchError):
        delta.upsert([make_item(1)], X[:1, :4])
    with pytest.raises(InvalidArgumentError, match="twice"):
        delta.upsert([make_item(1), make_item(1)], X[:2])
    assert delta.number == 0


def test_requests_written_together_see_each_other(store: Store) -> None:
    delta = open_delta(store)
    once = delta.prepare([make_item(1)], X[:1], request_id="a")
    gone = Write(item_ids=["item-000001", "item-000002"])
    assert delta.write([once, once, gone, gone], known=lambda item_id: False) == [1, 1, 1, 0]
    assert delta.number == 2
    assert open_delta(store).number == 2
    assert delta.write([Write(item_ids=["item-000002"])], known=lambda item_id: item_id == "item-000002") == [1]


def test_changes_are_laid_over_step_by_step_as_all_at_once(store: Store, snapshot: Snapshot) -> None:
    rng = np.random.default_rng(3)
    delta = open_delta(store)
    live = LiveSnapshot(snapshot, delta.tail(after=0))
    for _ in range(40):
        chosen = rng.choice(COUNT + 60, 4, replace=False)
        if rng.random() < 0.3:
            delta.delete([f"item-{number:06d}" for number in chosen])
        else:
            delta.upsert([make_item(int(number), fresh=int(number)) for number in chosen], X[chosen])
        if rng.random() < 0.5:
            live = LiveSnapshot(snapshot, delta.tail(after=0, since=live.number), before=live)
    live = LiveSnapshot(snapshot, delta.tail(after=0, since=live.number), before=live)
    anew = LiveSnapshot(snapshot, open_delta(store).tail(after=0))
    np.testing.assert_array_equal(live.alive_N, anew.alive_N)
    assert (live.items.places, live.items.columns) == (anew.items.places, anew.items.columns)
    for options in (SearchOptions(neighbor_count=30), SearchOptions(neighbor_count=30, target_recall=1)):
        (one, _), (other, _) = search(live, X[COUNT + 80 :], options), search(anew, X[COUNT + 80 :], options)
        np.testing.assert_array_equal(one.rows_QK, other.rows_QK)
    assert live.item_count == len({*(f"item-{n:06d}" for n in range(COUNT)), *live.items.places}) - sum(
        place < 0 for place in live.items.places.values()
    )


def test_where_the_nearest_are_deleted_the_next_are_found(store: Store, snapshot: Snapshot) -> None:
    x_QD = X[COUNT + 80 : COUNT + 84]
    order = np.argsort(((x_QD[0].astype(np.float64) - X[:COUNT]) ** 2).sum(axis=1))
    delta = open_delta(store)
    delta.delete([f"item-{row:06d}" for row in order[:300]])
    live = LiveSnapshot(snapshot, delta.tail(after=0))
    found = live.search(x_QD, neighbor_count=10)
    assert found.counts_Q.tolist() == [10] * 4
    assert found.rows_QK[0].tolist() == order[300:310].tolist()
    assert not set(found.rows_QK.ravel().tolist()) & set(order[:300].tolist())


def test_a_snapshot_whose_every_item_is_deleted_finds_nothing_and_then_what_is_added(
    store: Store, snapshot: Snapshot
) -> None:
    delta = open_delta(store)
    delta.delete([f"item-{row:06d}" for row in range(COUNT)])
    live = LiveSnapshot(snapshot, delta.tail(after=0))
    assert live.item_count == 0
    assert live.search(X[:2], neighbor_count=5).counts_Q.tolist() == [0, 0]
    assert search(live, X[:1], SearchOptions(neighbor_count=5, min_score=-1e9))[0].counts_Q.tolist() == [0]
    delta.upsert([make_item(1)], X[1:2])
    live = LiveSnapshot(snapshot, delta.tail(after=0, since=live.number), before=live)
    found = live.search(X[:2], neighbor_count=5)
    assert found.counts_Q.tolist() == [1, 1]
    assert live.items.item_ids(found.rows_QK[0, :1]) == ["item-000001"]
