"""Search with options: every query gets what it asked for, or all there is."""

from collections.abc import Iterator

import numpy as np
import pytest

from index.build import BuildConfig, build
from index.search import SearchOptions, search
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered, make_item
from vicinal.errors import InvalidArgumentError
from vicinal.store import Store
from vicinal.types import Metric

COUNT = 1200


@pytest.fixture(params=["flat", "hnsw", "ivf_flat"])
def snapshot(request: pytest.FixtureRequest, store: Store, add_embeddings: AddEmbeddings) -> Iterator[Snapshot]:
    items = [make_item(number, digest=f"{number // 4:064x}") for number in range(COUNT)]
    add_embeddings(clustered(COUNT, 12), metric=Metric.L2, items=items)
    report = build(store, config=BuildConfig(kind=request.param, query_count=50))
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        yield snapshot


def test_own_and_excluded_rows_never_come_back_and_leave_room_for_others(snapshot: Snapshot) -> None:
    x_QD = snapshot.vectors_ND[:5]
    plain, _ = search(snapshot, x_QD, SearchOptions(neighbor_count=10))
    banned = {int(row) for row in plain.rows_QK[:, 1:9].ravel()}
    options = SearchOptions(neighbor_count=10, excluded_item_ids=[*snapshot.items.item_ids(list(banned)), "unknown"])
    found, _ = search(snapshot, x_QD, options, exclude_rows=np.arange(5))
    assert (found.counts_Q == 10).all()
    assert not banned & set(found.rows_QK.ravel().tolist())
    assert (found.rows_QK != np.arange(5)[:, None]).all()


def test_identical_content_comes_back_once(snapshot: Snapshot) -> None:
    found, _ = search(snapshot, snapshot.vectors_ND[:7], SearchOptions(neighbor_count=20, exclude_duplicates=True))
    assert (found.counts_Q == 20).all()
    for rows_K in found.rows_QK:
        assert len(set((rows_K // 4).tolist())) == 20


def test_min_score_cuts_and_may_leave_nothing(snapshot: Snapshot) -> None:
    x_QD = snapshot.vectors_ND[:3]
    plain, _ = search(snapshot, x_QD, SearchOptions(neighbor_count=10, target_recall=1))
    edge = float(plain.scores_QK[0, 4])
    found, _ = search(snapshot, x_QD, SearchOptions(neighbor_count=10, min_score=edge, target_recall=1))
    assert found.counts_Q[0] == 5
    assert (found.scores_QK[0, :5] >= edge).all()
    nothing, _ = search(snapshot, x_QD, SearchOptions(min_score=1.0))
    assert (nothing.counts_Q == 0).all()


def test_plan_says_how_it_was_answered(snapshot: Snapshot) -> None:
    x_QD = snapshot.vectors_ND[:2]
    _, plan = search(snapshot, x_QD, SearchOptions(target_recall=1.0))
    assert (plan.strategy, plan.effort, plan.expected_recall) == ("exact", 0, 1.0)
    _, plan = search(snapshot, x_QD, SearchOptions())
    assert plan.strategy == ("exact" if snapshot.kind == "flat" else "index")
    assert plan.expected_recall >= 0.9
    _, plan = search(snapshot, x_QD, SearchOptions(neighbor_count=COUNT * 2))
    assert plan.strategy == "exact"


def test_everything_can_be_excluded(snapshot: Snapshot) -> None:
    options = SearchOptions(neighbor_count=5, excluded_item_ids=snapshot.items.item_ids(range(COUNT)))
    found, _ = search(snapshot, snapshot.vectors_ND[:2], options)
    assert found.counts_Q.tolist() == [0, 0]


def test_options_that_exclude_each_other_are_refused(snapshot: Snapshot) -> None:
    for options in (
        SearchOptions(effort=5, target_recall=0.9),
        SearchOptions(effort=0),
        SearchOptions(target_recall=2),
    ):
        with pytest.raises(InvalidArgumentError):
            search(snapshot, snapshot.vectors_ND[:1], options)
