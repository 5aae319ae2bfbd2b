"""Groups rows by nearest centroid, whatever the kind of index: the ground on which filtered search walks.

A filter that matches many rows is too wide to score them all, and too narrow for an index that
walks past what does not match. So the matching rows are kept by list, and a query scores those of
the nearest lists until it has seen enough of them.

    coarse.npy        centroids, float32 (C, D)
    coarse_lists.npy  list of each row, int32 (N,)
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from index.blas import load_faiss
from index.exact import exact_search, squared_norms
from vicinal.artifact import storage_guard
from vicinal.types import F32Array, I64Array, Metric

CENTROIDS_FILE = "coarse.npy"
LISTS_FILE = "coarse_lists.npy"
LEAST_FLOATS = 1 << 22
"""N x D below which a filter's rows are always scored all: 16 MiB are read in a millisecond."""
_ROWS_PER_LIST = 512
_MOST_LISTS = 4096
_SAMPLE_PER_LIST = 40
_ROUNDS = 6
_ASSIGN_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """Lists of rows by nearest centroid."""

    centroids_CD: F32Array
    """Centroids, float32."""
    norms_C: F32Array
    """Their squared lengths, float32."""
    lists_N: npt.NDArray[np.int32]
    """List of each row."""

    @classmethod
    def train(cls, vectors_ND: F32Array, *, seed: int) -> Self:
        """Clusters a sample by k-means and assigns every row.

        Args:
            vectors_ND: embeddings.
            seed: seed of the sample and of the clustering.
        """
        faiss = load_faiss()
        count, dimension = vectors_ND.shape
        list_count = max(1, min(_MOST_LISTS, count // _ROWS_PER_LIST))
        wanted = min(count, list_count * _SAMPLE_PER_LIST)
        rows = np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))
        limits = {"min_points_per_centroid": 1, "max_points_per_centroid": 10**6}
        kmeans = faiss.Kmeans(dimension, list_count, niter=_ROUNDS, seed=seed + 1, **limits)
        kmeans.train(np.ascontiguousarray(vectors_ND[rows]))
        centroids_CD: F32Array = np.ascontiguousarray(kmeans.centroids)
        lists_N = _assign(vectors_ND, centroids_CD)
        return cls(centroids_CD=centroids_CD, norms_C=squared_norms(centroids_CD), lists_N=lists_N)

    def extend(self, vectors_ND: F32Array) -> Self:
        """Returns the lists with the rows assigned that come behind the known ones."""
        added_n = _assign(vectors_ND[len(self.lists_N) :], self.centroids_CD)
        return replace(self, lists_N=np.concatenate([self.lists_N, added_n]))

    def write(self, directory: Path) -> None:
        """Writes both files.

        Raises:
            StorageError: the disk is full or failed.
        """
        for name, array in ((CENTROIDS_FILE, self.centroids_CD), (LISTS_FILE, self.lists_N)):
            with storage_guard(directory / name), (directory / name).open("wb") as stream:
                np.save(stream, array)

    @classmethod
    def open(cls, directory: Path) -> Self | None:
        """Maps the files of a snapshot; None where it has none."""
        if not (directory / LISTS_FILE).is_file():
            return None
        centroids_CD: F32Array = np.load(directory / CENTROIDS_FILE, mmap_mode="c", allow_pickle=False)
        lists_N: npt.NDArray[np.int32] = np.load(directory / LISTS_FILE, mmap_mode="r", allow_pickle=False)
        return cls(centroids_CD=centroids_CD, norms_C=squared_norms(centroids_CD), lists_N=lists_N)

    def nearest(self, x_D: F32Array, *, metric: Metric) -> I64Array:
        """Returns the lists, the nearest to a query first, int64 (C,)."""
        # Twice the product less the square of a centroid: the further, the smaller, without the query's own square.
        scores_C = self.centroids_CD @ x_D
        if metric is Metric.L2:
            scores_C = 2 * scores_C - self.norms_C
        order_C: I64Array = np.argsort(-scores_C)
        return order_C


def _assign(vectors_ND: F32Array, centroids_CD: F32Array) -> npt.NDArray[np.int32]:
    lists_N = np.empty(len(vectors_ND), dtype=np.int32)
    for start in range(0, len(vectors_ND), _ASSIGN_BLOCK):
        block_ND = vectors_ND[start : start + _ASSIGN_BLOCK]
        nearest_N1, _ = exact_search(block_ND, centroids_CD, metric=Metric.L2, neighbor_count=1)
        lists_N[start : start + _ASSIGN_BLOCK] = nearest_N1[:, 0]
    return lists_N
