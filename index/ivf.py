"""What the inverted-file kinds share: clustering, lists, search; each kind adds how a vector is coded."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from index.blas import load_faiss
from index.kind import INDEX_FILE, Source
from index.storage import faiss_metric, read_faiss, write_faiss
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array, I64Array, Metric

_POINTS_PER_LIST = 39
"""Fewest training vectors a list, below which k-means makes lists that mean little (FAISS's own limit)."""
_ADD_BLOCK = 1 << 16


def default_list_count(count: int) -> int:
    """Returns about 4 sqrt(N) lists, a power of two, with at least 39 items each; at least 1."""
    wanted = 4 * math.sqrt(max(count, 1))
    power = 1 << max(0, round(wanted).bit_length() - 1)
    if wanted / power > 2**0.5:
        power *= 2
    while power > 1 and power * _POINTS_PER_LIST > count:
        power //= 2
    return power


def resolve_list_count(list_count: int, *, count: int) -> int:
    """Returns the number of lists, decided where it is 0.

    Raises:
        InvalidArgumentError: negative, or more lists than items.
    """
    if list_count == 0:
        return default_list_count(count)
    if not 1 <= list_count <= max(count, 1):
        raise InvalidArgumentError(
            f"list_count is {list_count}, wanted 1 to {max(count, 1)} (the items)", field="list_count"
        )
    return list_count


def probe_efforts(list_count: int) -> tuple[int, ...]:
    """Returns the numbers of lists to probe that are worth measuring."""
    ladder = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    return (*[effort for effort in ladder if effort < list_count], min(list_count, 1024))


def build_ivf(source: Source, make: Callable[[Any, int], Any]) -> None:
    """Trains, fills and writes an inverted file.

    Args:
        source: what to index.
        make: from a FAISS coarse quantiser and FAISS's metric, an untrained inverted file.
    """
    faiss = load_faiss()
    metric = faiss_metric(source.metric)
    faiss_index = make(faiss.IndexFlat(source.vectors_ND.shape[1], metric), metric)
    faiss_index.cp.seed = source.seed
    faiss_index.cp.min_points_per_centroid = 1
    faiss_index.train(source.vectors_ND)
    _add(faiss_index, source.vectors_ND)
    write_faiss(faiss_index, source.directory / INDEX_FILE)


def extend_ivf(previous: Path, source: Source) -> None:
    """Writes the older inverted file with the new rows added to its lists."""
    faiss_index = read_faiss(previous / INDEX_FILE, mapped=False)
    assert faiss_index.ntotal <= len(source.vectors_ND), "the older rows come first"
    _add(faiss_index, source.vectors_ND[faiss_index.ntotal :])
    write_faiss(faiss_index, source.directory / INDEX_FILE)


def _add(faiss_index: Any, x_ND: F32Array) -> None:
    for start in range(0, len(x_ND), _ADD_BLOCK):
        faiss_index.add(x_ND[start : start + _ADD_BLOCK])


class IvfSearcher:
    """Searches an inverted file; effort is the number of lists probed."""

    def __init__(self, directory: Path) -> None:
        self._faiss = load_faiss()
        self._index = read_faiss(directory / INDEX_FILE)

    def search(
        self, x_QD: F32Array, *, neighbor_count: int, effort: int, selector: Any = None
    ) -> tuple[I64Array, F32Array]:
        """Returns rows and FAISS's distances; see ``Searcher``."""
        # A new object each time: FAISS may write into the parameters it is given.
        params = self._faiss.SearchParametersIVF(nprobe=min(effort, self._index.nlist), sel=selector)
        distances_QK, rows_QK = self._index.search(x_QD, neighbor_count, params=params)
        return rows_QK, distances_QK


def open_ivf(directory: Path, *, metric: Metric) -> IvfSearcher:
    """Opens an inverted file.

    Raises:
        CorruptArtifactError: the file cannot be read, or was built for another metric.
    """
    del metric  # the file knows it
    return IvfSearcher(directory)
