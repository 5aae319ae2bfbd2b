"""What the inverted-file kinds share: clustering, lists, search; each kind adds how a vector is coded."""

import abc
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from index.blas import load_faiss
from index.device import train
from index.kind import INDEX_FILE, Source
from index.searcher import FaissSearcher
from index.storage import faiss_metric, read_faiss, write_faiss
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array, Metric

_POINTS_PER_LIST = 39
"""Fewest training vectors a list, below which k-means makes lists that mean little (FAISS's own limit)."""
_ADD_BLOCK = 1 << 16
_CLUSTER_ROUNDS = 8
_SAMPLE_PER_LIST = 64
_LEAST_SAMPLE = 65_536
_LARGEST_SHORTLIST = 1000


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


def check_shortlist(shortlist: int) -> None:
    """Refuses a shortlist factor that is out of range.

    Raises:
        InvalidArgumentError: out of range.
    """
    if not 1 <= shortlist <= _LARGEST_SHORTLIST:
        raise InvalidArgumentError(f"shortlist is {shortlist}, wanted 1 to {_LARGEST_SHORTLIST}", field="shortlist")


def check_codebook(count: int, *, code_count: int) -> None:
    """Refuses fewer items than a codebook has entries.

    Raises:
        InvalidArgumentError: too few items.
    """
    if count < code_count:
        raise InvalidArgumentError(f"{count} items cannot train {code_count} codes; use flat or hnsw", field="kind")


def divide(dimension: int, *, wanted: int, field: str) -> int:
    """Returns the number of parts, nearest to the wanted, into which a vector can be cut evenly.

    Args:
        dimension: D.
        wanted: parts wanted; taken as it is when it divides D.
        field: name of the parameter, for the message.

    Raises:
        InvalidArgumentError: no even cut is near enough.
    """
    divisors = [parts for parts in range(1, dimension + 1) if dimension % parts == 0]
    best = min(divisors, key=lambda parts: abs(parts - wanted))
    if not wanted / 2 <= best <= wanted * 2:
        raise InvalidArgumentError(
            f"{dimension} dimensions cannot be cut into about {wanted} equal parts; try ivf_sq8 or hnsw_sq8",
            field=field,
        )
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class IvfParams:
    """Parameters of an inverted file of full vectors."""

    list_count: int = 0
    """Lists (nlist), 1 to the number of items; 0: about 4 sqrt(N)."""


class IvfKind(abc.ABC):
    """A kind with inverted lists; a subclass says how a vector is coded."""

    params_type: type = IvfParams
    effort_name = "nprobe"

    @abc.abstractmethod
    def make(self, quantizer: Any, metric: int, params: Any) -> Any:
        """Returns an untrained FAISS inverted file.

        Args:
            quantizer: a FAISS coarse quantiser.
            metric: FAISS's metric.
            params: resolved parameters.
        """

    @abc.abstractmethod
    def code_bytes(self, params: Any, *, dimension: int) -> float:
        """Returns the bytes of one coded vector."""

    def resolve(self, params: Any, *, count: int, dimension: int) -> Any:
        """Decides the number of lists; see ``Kind``."""
        del dimension
        return replace(params, list_count=resolve_list_count(params.list_count, count=count))

    def shortlist_factor(self, params: Any) -> int:
        """Returns the parameter ``shortlist``, 1 where the kind has none; see ``Kind``."""
        return int(getattr(params, "shortlist", 1))

    def efforts(self, params: Any, *, count: int) -> tuple[int, ...]:
        """Returns numbers of lists to probe; see ``Kind``."""
        del count
        return probe_efforts(params.list_count)

    def bytes_per_vector(self, params: Any, *, dimension: int) -> float:
        """Returns the code and the 8 bytes of FAISS's id; see ``Kind``."""
        return self.code_bytes(params, dimension=dimension) + 8

    def build(self, source: Source, params: Any) -> None:
        """Trains, fills and writes an inverted file; see ``Kind``."""
        faiss = load_faiss()
        metric = faiss_metric(source.metric)
        quantizer = faiss.IndexFlat(source.vectors_ND.shape[1], metric)
        faiss_index = self.make(quantizer, metric, params)
        cluster = faiss_index.cp
        cluster.seed, cluster.niter = source.seed, _CLUSTER_ROUNDS
        cluster.min_points_per_centroid, cluster.max_points_per_centroid = 1, _SAMPLE_PER_LIST
        sample_ND = self._sample(source, params)
        faiss_index = train(faiss_index, sample_ND)
        _add(faiss_index, source.vectors_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE)

    def _sample(self, source: Source, params: Any) -> F32Array:
        total = len(source.vectors_ND)
        wanted = max(_SAMPLE_PER_LIST * params.list_count, _LEAST_SAMPLE)
        if total <= wanted:
            return source.vectors_ND
        rows = np.random.default_rng(source.seed).choice(total, wanted, replace=False)
        return np.ascontiguousarray(source.vectors_ND[np.sort(rows)])

    def extend(self, previous: Path, source: Source, params: Any) -> None:
        """Writes the older inverted file with the new rows added to its lists; see ``Kind``."""
        del params
        faiss_index = read_faiss(previous / INDEX_FILE, mapped=False)
        assert faiss_index.ntotal <= len(source.vectors_ND), "the older rows come first"
        _add(faiss_index, source.vectors_ND[faiss_index.ntotal :])
        write_faiss(faiss_index, source.directory / INDEX_FILE)

    def open(self, directory: Path, *, metric: Metric) -> "IvfSearcher":
        """Opens the file, which knows its metric; see ``Kind``."""
        del metric
        return IvfSearcher(read_faiss(directory / INDEX_FILE))


def _add(faiss_index: Any, x_ND: F32Array) -> None:
    for start in range(0, len(x_ND), _ADD_BLOCK):
        faiss_index.add(x_ND[start : start + _ADD_BLOCK])


class IvfSearcher(FaissSearcher):
    """Searches an inverted file; effort is the number of lists probed."""

    @override
    def parameters(self, *, neighbor_count: int, effort: int) -> Any:
        return self.faiss.SearchParametersIVF(nprobe=min(effort, self.index.nlist))
