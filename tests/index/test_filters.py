"""Filtered search: always min(k, matching) neighbours, the right ones, whatever the share that matches."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index import build as builder
from index.build import BuildConfig, build
from index.coarse import Coarse
from index.filters import MAX_DEPTH, AllOf, AnyOf, Condition, Filter, NoneOf, matching
from index.search import SearchOptions, search
from index.snapshot import Snapshot
from index.unwanted import Grouping, Page
from tests.index.made_vectors import clustered, make_item, put_embeddings
from vicinal.errors import InvalidArgumentError, NotFoundError
from vicinal.store import Store
from vicinal.types import Metric

COUNT, DIMENSION = 8000, 16
MADE = datetime(2026, 1, 1, tzinfo=UTC)


def is_in(column: str, *values: object) -> Condition:
    return Condition(column=column, operator="in", values=values)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["walked", "gathered"])
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    """The same items with and without the lists that filtered search walks."""
    store = Store.create(tmp_path_factory.mktemp("filters") / "workspace")
    items = [
        make_item(
            number,
            shop=f"shop-{number % 7}" if number % 5 else None,
            price=number % 1000,
            weight=number / 7,
            sold=number % 2 == 0,
            made=MADE.replace(year=2000 + number % 30),
        )
        for number in range(COUNT)
    ]
    put_embeddings(store, clustered(COUNT, DIMENSION), metric=Metric.COSINE, items=items)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "walked":
            patch.setattr(builder, "LEAST_FLOATS", 1)
            patch.setattr("index.selection.GATHER_FLOATS", 1)
            patch.setattr("index.filter_tuning._LADDER", (100, 200, 400, 800, 1000, 1190))
        report = build(store, config=BuildConfig(kind="hnsw", query_count=50))
        with Snapshot.open(store.path("snapshots", report.version)) as opened:
            yield opened


FILTERS: dict[str, tuple[Filter, object]] = {
    "text": (is_in("shop", "shop-3"), lambda n: n % 5 != 0 and n % 7 == 3),
    "several": (is_in("shop", "shop-3", "shop-4", "none"), lambda n: n % 5 != 0 and n % 7 in {3, 4}),
    "less": (Condition(column="price", operator="less", values=(300,)), lambda n: n % 1000 < 300),
    "less by fraction": (Condition(column="price", operator="less", values=(299.5,)), lambda n: n % 1000 < 300),
    "at most": (Condition(column="weight", operator="less_or_equal", values=(100,)), lambda n: n / 7 <= 100),
    "greater": (Condition(column="price", operator="greater", values=(998,)), lambda n: n % 1000 > 998),
    "at least": (Condition(column="price", operator="greater_or_equal", values=(50,)), lambda n: n % 1000 >= 50),
    "truth": (is_in("sold", True), lambda n: n % 2 == 0),
    "time": (Condition(column="made", operator="less", values=(MADE.replace(year=2003),)), lambda n: n % 30 < 3),
    "prefix": (Condition(column="item_id", operator="prefix", values=("item-0070",)), lambda n: 7000 <= n < 7100),
    "null": (Condition(column="shop", operator="is_null"), lambda n: n % 5 == 0),
    "none of": (NoneOf(filter=is_in("shop", "shop-3")), lambda n: n % 5 == 0 or n % 7 != 3),
    "all of": (AllOf(filters=(is_in("sold", True), is_in("price", 10, 11))), lambda n: n % 1000 == 10),
    "any of": (AnyOf(filters=(is_in("price", 4), is_in("price", 5))), lambda n: n % 1000 in {4, 5}),
    "all of nothing": (AllOf(filters=()), lambda _: True),
    "any of nothing": (AnyOf(filters=()), lambda _: False),
    "one": (is_in("item_id", "item-000042"), lambda n: n == 42),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filtered_search_returns_the_best_that_match(snapshot: Snapshot, name: str) -> None:
    where, matches = FILTERS[name]
    rows_M = np.array([number for number in range(COUNT) if matches(number)], dtype=np.int64)  # type: ignore[operator]
    np.testing.assert_array_equal(np.flatnonzero(matching(where, snapshot.items)), rows_M)
    x_QD = clustered(COUNT + 20, DIMENSION)[COUNT:]
    found, plan = search(snapshot, x_QD, SearchOptions(neighbor_count=10, filter=where))
    wanted = min(10, len(rows_M))
    assert (found.counts_Q == wanted).all()
    if not wanted:
        return
    assert set(found.rows_QK[:, :wanted].ravel().tolist()) <= set(rows_M.tolist())
    truth = snapshot.exact(x_QD, neighbor_count=10, rows_N=rows_M)
    recall = (found.scores_QK[:, :wanted] >= truth.scores_QK[:, wanted - 1 : wanted] - 1e-6).mean()
    assert recall >= (1.0 if plan.strategy == "gather" else 0.97)
    exactly, plan = search(snapshot, x_QD, SearchOptions(neighbor_count=10, filter=where, target_recall=1))
    assert plan.strategy in {"gather", "exact"}
    np.testing.assert_array_equal(exactly.scores_QK[:, :wanted], truth.scores_QK)


def test_the_plan_names_its_way(snapshot: Snapshot) -> None:
    ways = {}
    for name in ("one", "less", "at least"):
        options = SearchOptions(filter=FILTERS[name][0])
        ways[name] = search(snapshot, snapshot.vectors_ND[:1], options)[1].strategy
    walked = Coarse.open(snapshot.path) is not None
    assert ways == {"one": "gather", "less": "index" if walked else "gather", "at least": "overfetch"}


def test_a_filter_goes_with_exclusions_duplicates_and_own_rows(snapshot: Snapshot) -> None:
    where = is_in("sold", True)
    options = SearchOptions(neighbor_count=8, filter=where, excluded_item_ids=["item-000002"], exclude_duplicates=True)
    found, _ = search(snapshot, snapshot.vectors_ND[[2, 4]], options, exclude_rows=np.array([-1, 4]))
    assert (found.counts_Q == 8).all()
    assert 2 not in found.rows_QK
    assert 4 not in found.rows_QK[1]
    assert (found.rows_QK % 2 == 0).all()


def test_columns_of_the_caller_can_be_filtered_and_grouped_by(snapshot: Snapshot) -> None:
    columns = {"labels.tag": pa.array([None if n % 3 else f"tag-{n % 2}" for n in range(COUNT)])}
    options = SearchOptions(neighbor_count=6, filter=is_in("labels.tag", "tag-1"))
    found, _ = search(snapshot, snapshot.vectors_ND[:2], options, columns=columns)
    assert all(row % 3 == 0 and row % 2 == 1 for row in found.rows_QK.ravel())
    options = SearchOptions(neighbor_count=10, grouping=Grouping(column="labels.tag", neighbor_count=2))
    found, _ = search(snapshot, snapshot.vectors_ND[:2], options, columns=columns)
    assert found.counts_Q.tolist() == [6, 6]


def test_groups_have_at_most_so_many(snapshot: Snapshot) -> None:
    options = SearchOptions(neighbor_count=12, grouping=Grouping(column="shop", neighbor_count=2))
    found, _ = search(snapshot, snapshot.vectors_ND[:5], options)
    assert (found.counts_Q == 12).all()
    for rows_K in found.rows_QK:
        shops = [snapshot.items.item(int(row)).metadata["shop"] for row in rows_K]
        assert max(shops.count(shop) for shop in set(shops)) == 2
    with pytest.raises(InvalidArgumentError, match=r"grouping\.neighbor_count"):
        search(snapshot, snapshot.vectors_ND[:1], SearchOptions(grouping=Grouping(column="shop", neighbor_count=0)))
    with pytest.raises(NotFoundError, match="did you mean 'shop'"):
        search(snapshot, snapshot.vectors_ND[:1], SearchOptions(grouping=Grouping(column="shops")))


@pytest.mark.parametrize("where", [None, FILTERS["truth"][0], FILTERS["at least"][0]])
def test_pages_follow_each_other_without_gap_or_repeat(snapshot: Snapshot, where: Filter | None) -> None:
    x_QD = snapshot.vectors_ND[11:12]
    whole, _ = search(snapshot, x_QD, SearchOptions(neighbor_count=40, filter=where, target_recall=1))
    rows: list[int] = []
    page = None
    while len(rows) < 40:
        options = SearchOptions(neighbor_count=8, filter=where, target_recall=1, page=page)
        found, _ = search(snapshot, x_QD, options)
        rows += found.rows_QK[0].tolist()
        page = Page(offset=len(rows), score=float(found.scores_QK[0, -1]), row=rows[-1])
    assert rows == whole.rows_QK[0].tolist()


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        (is_in("shp", "x"), NotFoundError, "did you mean 'shop'"),
        (is_in("price", "x"), InvalidArgumentError, "value of type str"),
        (is_in("price", True), InvalidArgumentError, "value of type bool"),
        (is_in("shop", 3), InvalidArgumentError, "value of type int"),
        (is_in("made", "2026"), InvalidArgumentError, "value of type str"),
        (is_in("price"), InvalidArgumentError, "with 0 values"),
        (is_in("price", 2**70), InvalidArgumentError, "column 'price'"),
        (Condition(column="price", operator="less", values=(1, 2)), InvalidArgumentError, "with 2 values, wanted 1"),
        (Condition(column="price", operator="is_null", values=(1,)), InvalidArgumentError, "with 1 values, wanted 0"),
        (Condition(column="price", operator="prefix", values=(1,)), InvalidArgumentError, "needs text"),
        (AllOf(filters=(is_in("price", 1),) * 1001), InvalidArgumentError, "1001 conditions"),
    ],
)
def test_a_wrong_filter_says_what_is_wrong(
    snapshot: Snapshot, where: Filter, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        search(snapshot, snapshot.vectors_ND[:1], SearchOptions(filter=where))


def test_a_filter_that_was_right_does_not_excuse_an_equal_one_of_another_type(snapshot: Snapshot) -> None:
    assert is_in("price", True) == is_in("price", 1)
    search(snapshot, snapshot.vectors_ND[:1], SearchOptions(filter=is_in("price", 1)))
    with pytest.raises(InvalidArgumentError, match="value of type bool"):
        search(snapshot, snapshot.vectors_ND[:1], SearchOptions(filter=is_in("price", True)))


def test_a_filter_may_not_be_nested_without_end(snapshot: Snapshot) -> None:
    where: Filter = is_in("price", 1)
    for _ in range(MAX_DEPTH):
        where = NoneOf(filter=where)
    with pytest.raises(InvalidArgumentError, match="nested"):
        search(snapshot, snapshot.vectors_ND[:1], SearchOptions(filter=where))


def test_the_last_filters_are_remembered(snapshot: Snapshot) -> None:
    first = snapshot.select(is_in("price", 1))
    assert snapshot.select(is_in("price", 1)) is first
    for price in range(2, 20):
        snapshot.select(is_in("price", price))
    assert snapshot.select(is_in("price", 1)) is not first


def test_an_extended_snapshot_keeps_its_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "LEAST_FLOATS", 1)
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(1600, 8)
    put_embeddings(store, x_ND[:1500])
    first = build(store, config=BuildConfig(kind="ivf_flat", query_count=20))
    put_embeddings(store, x_ND)
    config = BuildConfig(kind="ivf_flat", query_count=20, params=first.params)
    second = build(store, config=config, extend=store.path("snapshots", first.version))
    before, after = (Coarse.open(store.path("snapshots", report.version)) for report in (first, second))
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after.lists_N[:1500], before.lists_N)
    np.testing.assert_array_equal(after.centroids_CD, before.centroids_CD)
    assert len(after.lists_N) == 1600
