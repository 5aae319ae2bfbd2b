"""What a kind of index is: the protocol that every module of ``index.kinds`` fulfils as ``KIND``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vicinal import plugins
from vicinal.config import from_mapping
from vicinal.types import F32Array, I64Array, JsonObject, Metric

FAMILY = "index.kinds"
INDEX_FILE = "index.faiss"
VECTORS_FILE = "vectors.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What an index is built from."""

    directory: Path
    """Snapshot being written; ``vectors.npy`` is already there."""
    vectors_ND: F32Array
    """Embeddings, float32, row i is item i; unit length under cosine."""
    metric: Metric
    """How closeness is computed."""
    seed: int
    """Seed of sampling and clustering."""


class Searcher(Protocol):
    """An opened index; safe for many threads at once."""

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows int64 (Q, K), -1 where there is none; their order has no meaning.

        Args:
            x_QD: queries, float32, C-contiguous, finite.
            neighbor_count: K, at least 1.
            effort: search effort, at least 1; ignored where the kind has none.
        """
        ...


class Kind(Protocol):
    """A kind of index."""

    params_type: type
    """Frozen dataclass of the build parameters; 0 means that ``resolve`` decides."""
    effort_name: str
    """What effort is here, such as ``efSearch``; empty where the kind has none (it is exact)."""

    def resolve(self, params: Any, *, count: int, dimension: int) -> Any:
        """Returns the parameters with every 0 replaced for that many items of that dimension.

        Raises:
            InvalidArgumentError: a parameter is out of range, or does not fit the dimension.
        """
        ...

    def shortlist_factor(self, params: Any) -> int:
        """Returns how many neighbours are fetched for each one wanted, to be scored on the full vectors; 1: none."""
        ...

    def efforts(self, params: Any, *, count: int) -> tuple[int, ...]:
        """Returns the efforts worth measuring, ascending; ``(0,)`` where the kind has none."""
        ...

    def bytes_per_vector(self, params: Any, *, dimension: int) -> float:
        """Predicts the memory of one item while it is searched, in bytes.

        Ids and metadata are not in it, nor the pages of ``vectors.npy`` that a shortlist touches.
        """
        ...

    def build(self, source: Source, params: Any) -> None:
        """Trains and writes the index into the snapshot's directory.

        Raises:
            StorageError: the disk is full or failed.
        """
        ...

    def extend(self, previous: Path, source: Source, params: Any) -> None:
        """Writes the index of ``source`` by adding its last rows to an older index, without training.

        Args:
            previous: directory of the older snapshot; its rows are the first rows of ``source``.
            source: what the new snapshot holds.
            params: parameters of the older snapshot.
        """
        ...

    def open(self, directory: Path, *, metric: Metric) -> Searcher:
        """Opens the index in a snapshot's directory, memory-mapped.

        Raises:
            CorruptArtifactError: a file cannot be read; it is named.
        """
        ...


def names() -> tuple[str, ...]:
    """Returns the names of the kinds there are."""
    return plugins.names(FAMILY)


def load(name: str) -> Kind:
    """Returns a kind by name.

    Raises:
        InvalidArgumentError: no such kind; the message suggests one.
    """
    kind: Kind = plugins.load(FAMILY, name).KIND
    return kind


def make_params(kind: Kind, mapping: JsonObject, *, count: int, dimension: int) -> Any:
    """Builds and resolves the parameters of a kind from plain values.

    Raises:
        InvalidConfigError: an unknown parameter or a wrong value; the message suggests one.
        InvalidArgumentError: a value out of range.
    """
    params: Any = from_mapping(kind.params_type, mapping, where="index parameters")
    return kind.resolve(params, count=count, dimension=dimension)
