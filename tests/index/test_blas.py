"""The matrix kernel: chosen by the CPU's flags before FAISS is loaded, and checked afterwards."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from index import blas
from index.blas import check_products, choose_coretype, cpu_flags, load_faiss, threads_for
from index.exact import exact_search, pair_scores
from index.storage import flat_over_map, map_vectors, read_faiss
from tests.index.made_vectors import clustered
from vicinal.errors import CorruptArtifactError, FailedPreconditionError
from vicinal.types import Metric

AVX512 = frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})


@pytest.mark.parametrize(
    ("flags", "machine", "coretype"),
    [
        (AVX512, "x86_64", "SkylakeX"),
        (AVX512 - {"avx512dq"}, "AMD64", "Haswell"),
        (frozenset({"avx2"}), "x86_64", None),
        (frozenset(), "x86_64", None),
        (AVX512, "aarch64", None),
    ],
)
def test_the_kernel_follows_the_flags(flags: frozenset[str], machine: str, coretype: str | None) -> None:
    assert choose_coretype(flags, machine) == coretype


def test_flags_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu AVX2 fma\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "fma"}
    (tmp_path / "cpuinfo").write_text("Features : asimd\n")
    assert cpu_flags(tmp_path / "cpuinfo") == frozenset()
    assert cpu_flags(tmp_path / "missing") == frozenset()


def test_a_kernel_that_multiplies_wrongly_is_refused() -> None:
    faiss = load_faiss()

    def knn(x_QD: object, y_ND: object, count: int, *, metric: int) -> tuple[object, object]:
        scores_QK, rows_QK = faiss.knn(x_QD, y_ND, count, metric=metric)
        return scores_QK * 1.01, rows_QK

    with pytest.raises(FailedPreconditionError, match="gives wrong products here; set OPENBLAS_CORETYPE"):
        check_products(SimpleNamespace(knn=knn, METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT))


@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_only_faiss_lets_its_idle_threads_sleep(policy: str | None) -> None:
    code = "from os import environ; from index.blas import load_faiss; load_faiss(); import torch; "
    code += "print(environ.get('OMP_WAIT_POLICY'))"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("OMP_WAIT_POLICY", None)
    environment.update({} if policy is None else {"OMP_WAIT_POLICY": policy})
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    # Each OpenMP library says how often an idle thread looks for work before it sleeps.
    spins = {int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)}
    if not spins:
        pytest.skip("no OpenMP library of GNU here")
    assert (min(spins) == 0) == (policy is None)
    assert max(spins) > 0
    assert done.stdout.strip() == str(policy)


def test_a_choice_of_the_user_is_left_alone() -> None:
    code = "import os; from index.blas import load_faiss; load_faiss(); print(os.environ['OPENBLAS_CORETYPE'])"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Haswell"


def test_small_work_stays_in_this_thread_and_the_setting_comes_back() -> None:
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    with threads_for(10):
        assert faiss.omp_get_max_threads() == 1
    with threads_for(1 << 30):
        assert faiss.omp_get_max_threads() == before
    assert faiss.omp_get_max_threads() == before
    assert load_faiss() is blas.load_faiss()


@pytest.mark.parametrize("metric", list(Metric))
def test_small_and_large_scans_give_the_same_scores(monkeypatch: pytest.MonkeyPatch, metric: Metric) -> None:
    x_ND = clustered(3000, 24)
    rows_M = np.arange(5, 3000, 7)
    found = []
    for small_work in (1, 1 << 62):
        monkeypatch.setattr("index.exact._SMALL_WORK", small_work)
        found.append(exact_search(x_ND[:1500], x_ND, metric=metric, neighbor_count=5))
        found.append(exact_search(x_ND[:30], x_ND, metric=metric, neighbor_count=5, rows_M=rows_M))
    np.testing.assert_array_equal(found[0][1], found[2][1])
    np.testing.assert_array_equal(found[1][1], found[3][1])
    assert exact_search(x_ND[:2], x_ND[:0], metric=metric, neighbor_count=5)[0].shape == (2, 0)


def test_missing_rows_score_nothing() -> None:
    x_ND = clustered(10, 4)
    scores = pair_scores(x_ND[:1], x_ND, np.array([[0, -1]]), metric=Metric.L2)
    assert scores.tolist() == [[0, -np.inf]]


def test_files_that_are_no_vectors_or_no_index_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(CorruptArtifactError, match=r"float64 \(3, 2\), wanted float32"):
        map_vectors(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptArtifactError, match="cannot be mapped"):
        map_vectors(path)
    with pytest.raises(CorruptArtifactError, match="cannot be read by FAISS"):
        read_faiss(path)


def test_a_map_is_read_in_place_and_the_file_unchanged(tmp_path: Path) -> None:
    x_ND = clustered(50, 4)
    path = tmp_path / "vectors.npy"
    np.save(path, x_ND)
    before = path.read_bytes()
    flat, memory = flat_over_map(path, Metric.L2)
    assert memory is not None
    assert flat.search(x_ND, 1)[1][:, 0].tolist() == list(range(50))
    assert path.read_bytes() == before
    np.save(path, x_ND[:0])
    assert flat_over_map(path, Metric.L2)[0].ntotal == 0
