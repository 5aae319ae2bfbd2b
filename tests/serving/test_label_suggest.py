"""Suggestions on a corpus larger than the pool: a sample, and the neighborhood of what is labelled."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.snapshot import Snapshot
from serving.fewshot.space import unit
from serving.fewshot.transductive import refine
from serving.labels import strategies, suggest
from serving.labels.suggest import Known
from tests.serving.labelled_workspace import add_snapshot, made_clusters
from vicinal.store import Store


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    store = Store.create(tmp_path_factory.mktemp("suggest") / "workspace")
    x_ND, _ = made_clusters(600)
    digests = [f"{n // 2 if n < 100 else n:064x}" for n in range(600)]
    x_ND[1:100:2] = x_ND[0:100:2]
    add_snapshot(store, x_ND, digests=digests)
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        yield SimpleNamespace(snapshot=snapshot)


def known(rows: list[int]) -> Known:
    return Known(rows=np.array(rows, dtype=np.int64), class_count=2, model=None, center_D=np.zeros(32, np.float32))


@pytest.mark.parametrize("labelled", [[], [7, 11, 200]])
@pytest.mark.parametrize("strategy", ["typical", "k_center", "random"])
def test_a_large_corpus_is_sampled(
    generation: Any, monkeypatch: pytest.MonkeyPatch, labelled: list[int], strategy: str
) -> None:
    monkeypatch.setattr(suggest, "POOL_LIMIT", 100)
    allowed = np.setdiff1d(np.arange(600), labelled)
    found = suggest.suggest(generation, known(labelled), allowed=allowed, count=12, strategy=strategy, seed=3)
    assert len(set(found.rows.tolist())) == 12
    assert not set(found.rows.tolist()) & set(labelled)
    assert "candidates" in found.explanation


@pytest.mark.parametrize("strategy", ["typical", "k_center", "random"])
def test_copies_are_never_asked_twice(generation: Any, strategy: str) -> None:
    found = suggest.suggest(generation, known([0]), allowed=np.arange(2, 100), count=60, strategy=strategy, seed=0)
    digests = generation.snapshot.items.column("digest")
    seen = [digests[int(row)].as_py() for row in [0, *found.rows]]
    assert len(seen) == len(set(seen)) == 50


@pytest.mark.parametrize("strategy", ["typical", "k_center", "margin", "random"])
@pytest.mark.parametrize(("labelled", "allowed"), [([], []), ([0, 3], []), ([0], [1])], ids=["none", "all", "copies"])
def test_where_nothing_is_left_none_is_suggested(
    generation: Any, strategy: str, labelled: list[int], allowed: list[int]
) -> None:
    rows = np.array(allowed, np.int64)
    found = suggest.suggest(generation, known(labelled), allowed=rows, count=3, strategy=strategy, seed=0)
    assert found.rows.size == 0
    assert "nothing is left" in found.explanation


def test_strategies_give_what_there_is() -> None:
    x_ND = unit(made_clusters(6)[0])
    for count in (1, 6, 9):
        assert len(set(strategies.typical(x_ND, x_ND[:0], count=count, seed=0).tolist())) == min(count, 6)
        assert len(set(strategies.k_center(x_ND, x_ND[:0], count=count).tolist())) == min(count, 6)
        p_NC = np.full((6, 2), 0.5, np.float32)
        assert len(set(strategies.margin(x_ND, p_NC, count=count, seed=0).tolist())) == min(count, 6)


def test_typical_items_cover_clusters_before_any_gets_a_second() -> None:
    x_ND, y_N = made_clusters(200, noise=0.5)
    picked = strategies.typical(unit(x_ND), x_ND[:0], count=4, seed=0)
    assert sorted(y_N[picked].tolist()) == [0, 1, 2, 3]


def test_refinement_uses_what_the_queries_have_in_common() -> None:
    x_ND, y_N = made_clusters(404, noise=2.5)
    z_ND = unit(x_ND - x_ND.mean(axis=0))
    from serving.classifiers import prototype

    head = prototype.fit(z_ND[:4], y_N[:4], class_count=4)
    p_QC = head.predict(z_ND[4:])
    refined_QC = refine(p_QC, z_ND[4:], z_ND[:4], y_N[:4])
    np.testing.assert_allclose(refined_QC.sum(axis=1), 1, atol=1e-5)
    assert (refined_QC.argmax(axis=1) == y_N[4:]).mean() > (p_QC.argmax(axis=1) == y_N[4:]).mean()
