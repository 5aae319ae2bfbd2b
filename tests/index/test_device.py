"""GPU placement: what is refused without one, one thread that asks, and the real thing where there is one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.blas import load_faiss
from index.build import BuildConfig, build
from index.device import MOST_NEIGHBORS, Dispatcher, Placement, check_memory, gpu_count, place, resolve_device, train
from index.snapshot import Snapshot
from tests.index.made_vectors import AddEmbeddings, clustered
from vicinal.errors import FailedPreconditionError, InvalidArgumentError
from vicinal.store import Store
from vicinal.types import I64Array


def test_auto_is_the_cpu_where_a_kind_cannot_be_elsewhere() -> None:
    assert resolve_device("cpu", kind="hnsw") == "cpu"
    assert resolve_device("auto", kind="hnsw") == "cpu"
    with pytest.raises(FailedPreconditionError, match="kinds that can: ivf_flat"):
        resolve_device("gpu", kind="hnsw")
    with pytest.raises(InvalidArgumentError, match="wanted auto, cpu or gpu"):
        resolve_device("tpu", kind="hnsw")


@pytest.mark.skipif(gpu_count() > 0, reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(300, 8))
    report = build(store, config=BuildConfig(kind="ivf_flat", query_count=10))
    path = store.path("snapshots", report.version)
    with pytest.raises(FailedPreconditionError, match="no GPU is visible"):
        Snapshot.open(path, device="gpu")
    Snapshot.open(path, device="auto").close()
    check_memory(1e18, Placement())


def test_one_thread_asks_whoever_calls() -> None:
    faiss = load_faiss()
    x_ND = clustered(500, 8)
    faiss_index = faiss.IndexIVFFlat(faiss.IndexFlatL2(8), 8, 4)
    faiss_index = train(faiss_index, x_ND)
    faiss_index.add(x_ND)
    dispatcher = Dispatcher(faiss_index, list_count=4)

    def ask(row: int) -> I64Array:
        return dispatcher.search(x_ND[row : row + 1], neighbor_count=1, effort=100)

    with ThreadPoolExecutor(8) as pool:
        assert [int(rows[0, 0]) for rows in pool.map(ask, range(50))] == list(range(50))
    with pytest.raises(InvalidArgumentError, match="at most 2048"):
        dispatcher.search(x_ND[:1], neighbor_count=MOST_NEIGHBORS + 1, effort=1)


@pytest.mark.gpu
@pytest.mark.skipif(gpu_count() == 0, reason="no GPU is visible to FAISS")
@pytest.mark.parametrize("mode", ["replicate", "shard"])
def test_a_placed_index_answers_as_on_the_cpu(mode: str) -> None:
    faiss = load_faiss()
    x_ND = clustered(5000, 32)
    faiss_index = faiss.IndexIVFFlat(faiss.IndexFlatL2(32), 32, 16)
    faiss_index.train(x_ND)
    faiss_index.add(x_ND)
    placed = Dispatcher(place(faiss_index, Placement(mode=mode)), list_count=16)  # type: ignore[arg-type]
    rows_QK = placed.search(x_ND[:100], neighbor_count=10, effort=16)
    wanted_QK = faiss_index.search(x_ND[:100], 10, params=faiss.SearchParametersIVF(nprobe=16))[1]
    assert (np.sort(rows_QK) == np.sort(wanted_QK)).mean() > 0.99
