"""Loads FAISS with the matrix kernel that this CPU deserves; the one place where faiss is imported first.

The OpenBLAS in the FAISS wheel does not know newer CPUs and then falls back to a kernel several
times slower. Its choice can only be made before the library is loaded, through an environment
variable; so the variable is set here, from the CPU's flags, and a product is checked afterwards.
"""

import contextlib
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.errors import FailedPreconditionError

CORETYPE_VARIABLE = "OPENBLAS_CORETYPE"
_WAIT_VARIABLE = "OMP_WAIT_POLICY"
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_AVX2 = frozenset({"avx2", "fma"})
_WORTH_THREADS = 1 << 20
_load_lock = threading.Lock()
_loaded: list[Any] = []


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Returns the instruction-set flags of the CPU, lower case; empty where they cannot be read."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].lower().split())


def choose_coretype(flags: frozenset[str], machine: str) -> str | None:
    """Returns the OpenBLAS kernel for a CPU, or None to leave the choice to OpenBLAS.

    Args:
        flags: instruction-set flags, as ``cpu_flags`` gives them.
        machine: architecture, such as ``x86_64``.
    """
    if machine.lower() not in {"x86_64", "amd64"}:
        return None
    # Measured on Sapphire Rapids and on EPYC: SkylakeX beats the wheel's own choice by 3 to 4 times.
    if flags >= _AVX512:
        return "SkylakeX"
    return "Haswell" if flags >= _AVX2 else None


def load_faiss() -> Any:
    """Imports FAISS with a fast and checked kernel; later calls return the same module.

    A kernel that the user chose (``OPENBLAS_CORETYPE``) is left alone, but checked.

    Raises:
        FailedPreconditionError: the kernel gives wrong products on this CPU.
    """
    return _loaded[0] if _loaded else _load_once()


def _load_once() -> Any:
    with _load_lock:
        if not _loaded:
            _loaded.append(_load())
    return _loaded[0]


@contextlib.contextmanager
def threads_for(work: int) -> Iterator[None]:
    """Keeps FAISS in this thread while there is little to do: waking the others would take longer.

    Args:
        work: multiplications, about.
    """
    if work >= _WORTH_THREADS:
        yield
        return
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    # The setting belongs to the calling thread alone, so other callers keep theirs.
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def import_faiss() -> Any:
    """Imports FAISS with the kernel that this CPU deserves; starts no thread, so a process may fork afterwards.

    Everybody else calls ``load_faiss``, which also checks the kernel.
    """
    coretype = choose_coretype(cpu_flags(), platform.machine())
    if coretype is not None:
        os.environ.setdefault(CORETYPE_VARIABLE, coretype)
    # Idle OpenMP threads sleep: spinning, they take the cores from whoever answers the next query. FAISS has an OpenMP
    # library of its own, which reads this when it is loaded; torch's, loaded later, should not: a forward pass is many
    # short pieces of work, and waking its threads for each takes longer than some of them.
    policy = os.environ.get(_WAIT_VARIABLE)
    os.environ.setdefault(_WAIT_VARIABLE, "PASSIVE")
    try:
        import faiss  # noqa: PLC0415 - the variables above must be set first
    finally:
        if policy is None:
            del os.environ[_WAIT_VARIABLE]
    return faiss


def _load() -> Any:
    faiss = import_faiss()
    check_products(faiss)
    return faiss


def check_products(faiss: Any) -> None:
    """Compares a product of the loaded kernel with float64 arithmetic.

    Raises:
        FailedPreconditionError: it is wrong.
    """
    rng = np.random.default_rng(0)
    # Odd sizes reach the edge code of a kernel; 512 queries x 261 are above FAISS's BLAS threshold.
    x_QD = rng.standard_normal((512, 261), dtype=np.float32)
    y_ND = rng.standard_normal((1031, 261), dtype=np.float32)
    scores_QK, rows_QK = faiss.knn(x_QD, y_ND, 3, metric=faiss.METRIC_INNER_PRODUCT)
    truth_QN = x_QD.astype(np.float64) @ y_ND.T.astype(np.float64)
    found_QK = np.take_along_axis(truth_QN, rows_QK, axis=1)
    best_QK = -np.sort(-truth_QN, axis=1)[:, :3]
    if np.allclose(scores_QK, found_QK, atol=1e-2) and np.allclose(found_QK, best_QK, atol=1e-2):
        return
    kernel = os.environ.get(CORETYPE_VARIABLE, "chosen by OpenBLAS")
    raise FailedPreconditionError(
        f"the OpenBLAS kernel {kernel} gives wrong products here; set {CORETYPE_VARIABLE}=Haswell or Sandybridge",
        metadata={"kernel": kernel},
    )
