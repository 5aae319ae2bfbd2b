"""The peers of the index, each built with its usual settings and asked at rising effort."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.index_data import Data
from vicinal.types import F32Array, I64Array, Metric

K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A built index that can be asked."""

    name: str
    build_s: float
    efforts: tuple[int, ...]
    batch: Callable[[F32Array, int], I64Array]
    """From queries and an effort to ids (Q, K), on all cores."""
    one: Callable[[F32Array, int], Any]
    """The same for one query (1, D)."""


def hnswlib_peer(data: Data) -> Peer:
    import hnswlib

    count, dimension = data.x_ND.shape
    index = hnswlib.Index(space="l2" if data.metric is Metric.L2 else "ip", dim=dimension)
    start = time.perf_counter()
    index.init_index(max_elements=count, ef_construction=200, M=16, random_seed=0)
    index.set_num_threads(os.cpu_count() or 1)
    index.add_items(data.x_ND)
    build_s = time.perf_counter() - start

    def search(x_QD: F32Array, effort: int) -> I64Array:
        index.set_ef(max(effort, K))
        ids_QK: I64Array = index.knn_query(x_QD, k=K)[0].astype(np.int64)
        return ids_QK

    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    return Peer(name="hnswlib", build_s=build_s, efforts=efforts, batch=search, one=search)


def usearch_peer(data: Data) -> Peer:
    from usearch.index import Index

    threads = os.cpu_count() or 1
    index = Index(
        ndim=data.x_ND.shape[1],
        metric="l2sq" if data.metric is Metric.L2 else "ip",
        dtype="f32",
        connectivity=16,
        expansion_add=128,
    )
    start = time.perf_counter()
    index.add(np.arange(len(data.x_ND)), data.x_ND, threads=threads)
    build_s = time.perf_counter() - start

    def search(x_QD: F32Array, effort: int) -> I64Array:
        index.expansion_search = max(effort, K)  # type: ignore[misc] # a property that its stubs call read-only
        keys = index.search(x_QD, K, threads=threads if len(x_QD) > 1 else 1).keys
        ids_QK: I64Array = np.asarray(keys, dtype=np.int64).reshape(len(x_QD), -1)
        return ids_QK

    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    return Peer(name="usearch", build_s=build_s, efforts=efforts, batch=search, one=search)


def scann_peer(data: Data) -> Peer:
    import scann

    count = len(data.x_ND)
    leaves = int(2 ** round(np.log2(2 * np.sqrt(count))))
    distance = "squared_l2" if data.metric is Metric.L2 else "dot_product"
    start = time.perf_counter()
    searcher = (
        scann.scann_ops_pybind.builder(data.x_ND, K, distance)
        .tree(num_leaves=leaves, num_leaves_to_search=16, training_sample_size=min(count, 250_000))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .build()
    )
    build_s = time.perf_counter() - start

    def batch(x_QD: F32Array, effort: int) -> I64Array:
        found = searcher.search_batched_parallel(x_QD, leaves_to_search=effort, pre_reorder_num_neighbors=100)
        ids_QK: I64Array = found[0].astype(np.int64)
        return ids_QK

    def one(x_QD: F32Array, effort: int) -> Any:
        return searcher.search(x_QD[0], leaves_to_search=effort, pre_reorder_num_neighbors=100)

    efforts = tuple(effort for effort in (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192) if effort <= leaves)
    return Peer(name="scann", build_s=build_s, efforts=efforts, batch=batch, one=one)


PEERS = {"hnswlib": hnswlib_peer, "usearch": usearch_peer, "scann": scann_peer}
