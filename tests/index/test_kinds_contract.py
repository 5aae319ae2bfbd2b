"""What every kind of index promises, held against exact search, tie-aware."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from index import kind as kinds
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from tests.index.made_vectors import clustered, put_embeddings
from vicinal.errors import DimensionMismatchError, InvalidArgumentError, InvalidVectorError
from vicinal.store import Store
from vicinal.types import F32Array, Metric, Neighbors

COUNT, DIMENSION = 1200, 16


@dataclass(frozen=True)
class Case:
    kind: str
    metric: Metric
    store: Store
    snapshot: Snapshot
    held_out_QD: F32Array


@pytest.fixture(scope="module", params=[(kind, metric) for kind in kinds.names() for metric in Metric], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    kind, metric = request.param
    if kind == "milvus":
        request.getfixturevalue("milvus_uri")
    x_ND = clustered(COUNT + 50, DIMENSION)
    store = Store.create(tmp_path_factory.mktemp("contract") / "workspace")
    put_embeddings(store, x_ND[:COUNT], metric=metric)
    report = build(store, config=BuildConfig(kind=kind, recall=0.98, query_count=100))
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        yield Case(kind, metric, store, snapshot, x_ND[COUNT:])


def assert_same_neighbors(found: Neighbors, wanted: Neighbors, *, tolerance: float = 1e-4) -> None:
    """Equal but for the order of equal scores."""
    np.testing.assert_array_equal(found.counts_Q, wanted.counts_Q)
    np.testing.assert_allclose(found.scores_QK, wanted.scores_QK, rtol=tolerance, atol=tolerance)
    for found_K, wanted_K, scores_K in zip(found.rows_QK, wanted.rows_QK, wanted.scores_QK, strict=True):
        clear = scores_K > scores_K[-1] + tolerance * max(1.0, abs(float(scores_K[-1])))
        assert set(wanted_K[clear].tolist()) <= set(found_K.tolist())


def test_at_its_highest_effort_it_finds_nearly_what_exact_search_finds(case: Case) -> None:
    top = max(point.effort for point in case.snapshot.curve) or None
    found = case.snapshot.search(case.held_out_QD, neighbor_count=10, effort=top)
    truth = case.snapshot.exact(case.held_out_QD, neighbor_count=10)
    assert (found.scores_QK >= truth.scores_QK[:, -1:] - 1e-4).mean() > 0.97


def test_scores_are_those_of_the_rows_and_best_first(case: Case) -> None:
    found = case.snapshot.search(case.held_out_QD, neighbor_count=10)
    x_QD = case.snapshot.check_queries(case.held_out_QD).astype(np.float64)
    y_QKD = case.snapshot.vectors_ND[found.rows_QK].astype(np.float64)
    truth_QK = np.einsum("qd,qkd->qk", x_QD, y_QKD)
    if case.metric is Metric.L2:
        truth_QK = -((x_QD[:, None] - y_QKD) ** 2).sum(axis=2)
    np.testing.assert_allclose(found.scores_QK, truth_QK, rtol=1e-4, atol=1e-4)
    assert (np.diff(found.scores_QK, axis=1) <= 0).all()
    assert all(len(set(rows_K.tolist())) == 10 for rows_K in found.rows_QK)


def test_exact_effort_is_exact(case: Case) -> None:
    found = case.snapshot.search(case.held_out_QD, neighbor_count=10, effort=0)
    assert_same_neighbors(found, case.snapshot.exact(case.held_out_QD, neighbor_count=10))


def test_a_batch_answers_as_its_queries_alone(case: Case) -> None:
    batch = case.snapshot.search(case.held_out_QD, neighbor_count=5)
    for row in range(0, 50, 7):
        one = case.snapshot.search(case.held_out_QD[row : row + 1], neighbor_count=5)
        alone = Neighbors(
            rows_QK=batch.rows_QK[row : row + 1],
            scores_QK=batch.scores_QK[row : row + 1],
            counts_Q=batch.counts_Q[row : row + 1],
        )
        assert_same_neighbors(one, alone)


def test_asking_for_more_than_there_is_returns_everything_once(case: Case) -> None:
    found = case.snapshot.search(case.held_out_QD[:2], neighbor_count=10_000_000)
    assert found.counts_Q.tolist() == [COUNT, COUNT]
    assert sorted(found.rows_QK[1].tolist()) == list(range(COUNT))


def test_asking_for_many_fills_every_place(case: Case) -> None:
    found = case.snapshot.search(case.held_out_QD[:3], neighbor_count=COUNT // 4 - 1, effort=1)
    assert (found.counts_Q == COUNT // 4 - 1).all()
    assert all(len(set(rows_K.tolist())) == COUNT // 4 - 1 for rows_K in found.rows_QK)
    assert np.isfinite(found.scores_QK).all()


def test_no_queries_give_no_neighbors(case: Case) -> None:
    found = case.snapshot.search(np.empty((0, DIMENSION), np.float32), neighbor_count=3)
    assert found.rows_QK.shape == (0, 3)


def test_wrong_vectors_are_refused(case: Case) -> None:
    x_QD = case.held_out_QD[:3].copy()
    for bad in (np.nan, np.inf, -np.inf):
        x_QD[1, 2] = bad
        with pytest.raises(InvalidVectorError, match="vector 1"):
            case.snapshot.search(x_QD, neighbor_count=3)
    with pytest.raises(DimensionMismatchError):
        case.snapshot.search(np.ones((1, DIMENSION + 1), np.float32), neighbor_count=3)
    zero_QD = np.zeros((1, DIMENSION), np.float32)
    if case.metric is Metric.COSINE:
        with pytest.raises(InvalidVectorError, match="zero"):
            case.snapshot.search(zero_QD, neighbor_count=3)
    else:
        assert case.snapshot.search(zero_QD, neighbor_count=3).counts_Q.tolist() == [3]


def test_huge_vectors_are_scaled_under_cosine_and_refused_elsewhere(case: Case) -> None:
    huge_QD = case.held_out_QD[:1] * np.float32(1e30)
    if case.metric is Metric.COSINE:
        found = case.snapshot.exact(huge_QD, neighbor_count=5)
        assert_same_neighbors(found, case.snapshot.exact(case.held_out_QD[:1], neighbor_count=5))
    else:
        with pytest.raises(InvalidVectorError, match="longer"):
            case.snapshot.search(huge_QD, neighbor_count=5)


def test_many_threads_get_the_same_answers(case: Case) -> None:
    wanted = case.snapshot.search(case.held_out_QD, neighbor_count=5)

    def once(_: int) -> Neighbors:
        return case.snapshot.search(case.held_out_QD, neighbor_count=5)

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(once, range(8)):
            assert_same_neighbors(found, wanted)


def test_memory_is_predicted(case: Case) -> None:
    if case.kind == "milvus":
        pytest.skip("the memory is the server's")
    kind = kinds.load(case.kind)
    params = kinds.make_params(kind, case.snapshot.params, count=COUNT, dimension=DIMENSION)
    predicted = kind.bytes_per_vector(params, dimension=DIMENSION) * COUNT
    path = case.snapshot.path / kinds.INDEX_FILE
    actual = path.stat().st_size if path.exists() else 0
    if case.kind in {"flat", "hnsw"}:
        actual += 4 * DIMENSION * COUNT
    # Centroids and codebooks, which do not grow with the items, weigh in so small a corpus.
    fixed = 4 * DIMENSION * (params.list_count if hasattr(params, "list_count") else 0) + 64_000
    assert 0.85 * predicted <= actual <= 1.15 * predicted + fixed


def test_rows_added_later_are_found(case: Case) -> None:
    version = put_embeddings(
        case.store, np.concatenate([case.snapshot.vectors_ND, case.held_out_QD]), metric=case.metric
    )
    config = BuildConfig(kind=case.kind, params=case.snapshot.params, query_count=20)
    report = build(case.store, embeddings=version, config=config, extend=case.snapshot.path)
    assert report.count == COUNT + 50
    with Snapshot.open(case.store.path("snapshots", report.version)) as grown:
        found = grown.search(case.held_out_QD, neighbor_count=1, effort=64)
        wanted = grown.exact(case.held_out_QD, neighbor_count=1)
        assert (found.rows_QK == wanted.rows_QK).mean() > 0.95


@pytest.mark.parametrize("kind", kinds.names(), indirect=True)
@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_tiny_corpus_works_or_is_refused_by_name(tmp_path: Path, kind: str, count: int) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(count, 8)
    put_embeddings(store, x_ND, metric=Metric.COSINE)
    try:
        report = build(store, config=BuildConfig(kind=kind, query_count=10))
    except InvalidArgumentError as error:
        assert "items cannot train" in error.message  # noqa: PT017 - either way is right
        return
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        found = snapshot.search(x_ND, neighbor_count=3)
        assert (found.counts_Q == min(3, count)).all()
        np.testing.assert_array_equal(found.rows_QK[:, 0], np.arange(count))


@pytest.mark.parametrize("kind", kinds.names(), indirect=True)
def test_equal_vectors_all_count_as_neighbors(tmp_path: Path, kind: str) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(600, 8)
    x_ND[100:140] = x_ND[7]
    put_embeddings(store, x_ND)
    report = build(store, config=BuildConfig(kind=kind, query_count=10))
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        found = snapshot.search(x_ND[7:8], neighbor_count=20, effort=64)
        assert set(found.rows_QK[0].tolist()) <= {7, *range(100, 140)}
        np.testing.assert_allclose(found.scores_QK, 0, atol=1e-5)


@pytest.mark.parametrize("kind", [name for name in kinds.names() if name != "flat"])
def test_parameters_out_of_range_are_named(kind: str) -> None:
    known = kinds.load(kind)
    wrong = {"flat": {"shortlist": 1001}, "hnsw": {"link_count": 1}, "milvus": {"link_count": 1}}.get(
        kind.partition("_")[0], {"list_count": 10_001}
    )
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        kinds.make_params(known, wrong, count=10_000, dimension=64)
    if "shortlist" in known.params_type.__dataclass_fields__:  # type: ignore[attr-defined]
        with pytest.raises(InvalidArgumentError, match="shortlist"):
            kinds.make_params(known, {"shortlist": 0}, count=10_000, dimension=64)
    if kind.startswith("ivf_pq"):
        with pytest.raises(InvalidArgumentError, match="equal parts"):
            kinds.make_params(known, {}, count=10_000, dimension=193)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(("kind", "least"), [("flat_f16", 0.99), ("flat_sq8", 0.9)])
def test_a_coded_scan_finds_the_same_alone_and_in_a_batch(
    tmp_path: Path, kind: str, least: float, metric: Metric
) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(3000, 24)
    put_embeddings(store, x_ND, metric=metric)
    for shortlist in (1, 4):
        config = BuildConfig(kind=kind, params={"shortlist": shortlist}, query_count=50, recall=0.5)
        with Snapshot.open(store.path("snapshots", build(store, config=config).version)) as snapshot:
            assert snapshot.curve[0].recall >= (least if shortlist == 1 else 0.995)
            x_QD = clustered(40, 24, seed=3)
            together = snapshot.search(x_QD, neighbor_count=10, effort=1)
            for row in range(0, 40, 9):
                alone = snapshot.search(x_QD[row : row + 1], neighbor_count=10, effort=1)
                np.testing.assert_allclose(alone.scores_QK[0], together.scores_QK[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["flat_f16", "hnsw_f16"])
def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path, kind: str) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(300, 8)
    put_embeddings(store, x_ND)
    fitting = build(store, config=BuildConfig(kind=kind, query_count=10))
    x_ND[290, 3] = -70_000
    version = put_embeddings(store, x_ND)
    config = BuildConfig(kind=kind, query_count=10)
    with pytest.raises(InvalidArgumentError, match="70000, half precision ends at 65,504"):
        build(store, config=config)
    put_embeddings(store, np.concatenate([clustered(300, 8), x_ND[290:291]]))
    with pytest.raises(InvalidArgumentError, match="half precision"):
        build(store, config=config, extend=store.path("snapshots", fitting.version))
    assert store.versions("snapshots") == [fitting.version]
    full = build(store, embeddings=version, config=BuildConfig(kind=kind.replace("_f16", ""), query_count=10))
    assert full.count == 300


def test_half_precision_finds_in_a_graph_what_full_precision_finds(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    x_ND = clustered(2000, 24)
    put_embeddings(store, x_ND, metric=Metric.COSINE)
    recalls = {}
    for kind in ("hnsw", "hnsw_f16"):
        report = build(store, config=BuildConfig(kind=kind, recall=0.5, query_count=100))
        with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
            recalls[kind] = {point.effort: point.recall for point in snapshot.curve}
    # A curve ends where it has reached 1.
    both = recalls["hnsw_f16"].keys() & recalls["hnsw"].keys()
    assert len(both) >= 3
    assert all(abs(recalls["hnsw_f16"][effort] - recalls["hnsw"][effort]) < 0.02 for effort in both)
    assert max(recalls["hnsw_f16"].values()) > 0.995
