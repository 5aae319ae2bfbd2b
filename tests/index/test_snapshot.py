"""A snapshot of every kind: built, opened, searched, compared with exact search, and refused when damaged."""

from pathlib import Path

import numpy as np
import pytest

from index.blas import load_faiss
from index.build import BuildConfig, build
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.errors import (
    CorruptArtifactError,
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidVectorError,
    SnapshotNotFoundError,
)
from vicinal.store import Store
from vicinal.types import Metric


@pytest.mark.parametrize("metric", list(Metric))
def test_exact_search_agrees_with_float64(store: Store, add_embeddings: AddEmbeddings, metric: Metric) -> None:
    x_ND = clustered(700, 24)
    add_embeddings(x_ND, metric=metric)
    report = build(store, config=BuildConfig(kind="flat", query_count=10))
    x_QD = np.concatenate([clustered(20, 24, seed=9), x_ND[:5]])
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        y_ND = snapshot.vectors_ND.astype(np.float64)
        q_QD = snapshot.check_queries(x_QD).astype(np.float64)
        truth_QN = q_QD @ y_ND.T
        if metric is Metric.L2:
            truth_QN = -((q_QD[:, None] - y_ND[None]) ** 2).sum(axis=2)
        found = snapshot.exact(x_QD, neighbor_count=7)
        np.testing.assert_allclose(found.scores_QK, -np.sort(-truth_QN, axis=1)[:, :7], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            found.scores_QK, np.take_along_axis(truth_QN, found.rows_QK, 1), rtol=1e-4, atol=1e-5
        )
        rows_N = np.array([3, 5, 600, 601])
        some = snapshot.exact(x_QD, neighbor_count=7, rows_N=rows_N)
        assert some.rows_QK.shape == (25, 4)
        assert set(some.rows_QK[0].tolist()) == set(rows_N.tolist())


@pytest.fixture
def snapshot_path(store: Store, add_embeddings: AddEmbeddings) -> Path:
    add_embeddings(clustered(400, 8), metric=Metric.COSINE)
    return store.path("snapshots", build(store, config=BuildConfig(kind="hnsw", query_count=20)).version)


@pytest.mark.parametrize("name", ["index.faiss", "vectors.npy", "items.arrow", "items.lookup.npy"])
def test_a_flipped_byte_is_refused_and_the_file_named(snapshot_path: Path, name: str) -> None:
    path = snapshot_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=name):
        Snapshot.open(snapshot_path)


def test_a_truncated_or_missing_file_is_refused_even_unverified(snapshot_path: Path) -> None:
    path = snapshot_path / "index.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(CorruptArtifactError, match=r"index\.faiss has"):
        Snapshot.open(snapshot_path, verify=False)
    path.unlink()
    with pytest.raises(CorruptArtifactError, match=r"index\.faiss is missing"):
        Snapshot.open(snapshot_path, verify=False)
    with pytest.raises(SnapshotNotFoundError, match="no snapshot"):
        Snapshot.open(snapshot_path.parent / "000099")


def test_wrong_queries_are_refused_with_the_reason(snapshot_path: Path) -> None:
    with Snapshot.open(snapshot_path) as snapshot:
        good_QD = np.ones((2, 8), np.float32)
        for bad in (np.nan, np.inf, -np.inf):
            x_QD = good_QD.copy()
            x_QD[1, 3] = bad
            with pytest.raises(InvalidVectorError, match="vector 1 holds NaN or infinity"):
                snapshot.search(x_QD, neighbor_count=3)
        with pytest.raises(InvalidVectorError, match="vector 0 is zero"):
            snapshot.exact(good_QD * 0, neighbor_count=3)
        for shape in ((2, 7), (8,), (1, 2, 8)):
            with pytest.raises(DimensionMismatchError, match="dimensions"):
                snapshot.search(np.ones(shape, np.float32), neighbor_count=3)
        for count in (0, -1):
            with pytest.raises(InvalidArgumentError, match="neighbor_count"):
                snapshot.search(good_QD, neighbor_count=count)
        with pytest.raises(InvalidArgumentError, match="effort"):
            snapshot.search(good_QD, neighbor_count=1, effort=-1)
        everything = snapshot.search(good_QD, neighbor_count=10_000_000)
        assert sorted(everything.rows_QK[0].tolist()) == list(range(400))


def test_effort_comes_from_the_curve(snapshot_path: Path) -> None:
    with Snapshot.open(snapshot_path) as snapshot:
        assert snapshot.effort_for(1.0) == 0
        effort = snapshot.effort_for(0.9)
        assert effort in [point.effort for point in snapshot.curve]
        assert snapshot.expected_recall(effort) >= 0.9
        assert snapshot.expected_recall(0) == 1.0
        for wrong in (0.0, -1.0, 1.5, float("nan")):
            with pytest.raises(InvalidArgumentError, match="target_recall"):
                snapshot.effort_for(wrong)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat", "ivf_pq_fastscan"])
def test_one_query_alone_is_answered_as_among_others(
    store: Store, add_embeddings: AddEmbeddings, kind: str, metric: Metric
) -> None:
    add_embeddings(clustered(2000, 16), metric=metric)
    report = build(store, config=BuildConfig(kind=kind, query_count=20))
    x_QD = clustered(30, 16, seed=5)
    with Snapshot.open(store.path("snapshots", report.version)) as snapshot:
        together = snapshot.search(x_QD, neighbor_count=7, effort=40)
        threads = load_faiss().omp_get_max_threads()
        alone = [snapshot.search(x_QD[q : q + 1], neighbor_count=7, effort=40) for q in range(len(x_QD))]
        # What one search returned stays what it was, and the next batch has all its threads.
        assert load_faiss().omp_get_max_threads() == threads
        np.testing.assert_array_equal(np.concatenate([one.rows_QK for one in alone]), together.rows_QK)
        np.testing.assert_array_equal(np.concatenate([one.scores_QK for one in alone]), together.scores_QK)
        # Another count and effort are another search, in this thread too.
        assert snapshot.search(x_QD[:1], neighbor_count=3, effort=12).rows_QK.shape == (1, 3)
        with pytest.raises(InvalidVectorError, match="NaN"):
            snapshot.search(np.full((1, 16), np.nan, np.float32), neighbor_count=3)
        with pytest.raises(InvalidArgumentError, match="neighbor_count"):
            snapshot.search(x_QD[:1], neighbor_count=0)


def test_fast_codes_tell_the_members_of_a_cluster_apart(store: Store, add_embeddings: AddEmbeddings) -> None:
    rng = np.random.default_rng(0)
    x_ND = (4 * rng.standard_normal((40, 32)))[rng.integers(40, size=4000)] + 0.3 * rng.standard_normal((4000, 32))
    add_embeddings(x_ND.astype(np.float32), metric=Metric.COSINE)
    # What is coded is the rest to the centre of a list: codes of the whole vectors reach .46.
    report = build(store, config=BuildConfig(kind="ivf_pq_fastscan", params={"shortlist": 4}, query_count=100))
    assert max(point.recall for point in report.curve) > 0.55
