"""The embeddings artifact: vectors and items, row for row, memory-mapped.

A directory with ``manifest.json``, ``vectors.npy`` (float32, N x D), ``items.arrow`` with
``items.lookup.npy``, and ``quarantine.jsonl``: what the corpora held that could not be embedded.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vicinal.artifact import Manifest, canonical_digest, digest_file, read_manifest, storage_guard, write_manifest
from vicinal.corpus import Quarantined
from vicinal.errors import CorruptArtifactError, DimensionMismatchError, InvalidVectorError
from vicinal.items import Item, ItemRows, ItemTable, write_items
from vicinal.types import F32Array, I64Array, JsonObject, Metric

KIND, FORMAT_VERSION = "embeddings", 1
VECTORS = "vectors.npy"
QUARANTINE = "quarantine.jsonl"
_CHECK_ROWS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsInfo:
    """What an embeddings artifact says of itself, besides its size."""

    dimension: int
    """D, at least 1."""
    metric: Metric
    """How the vectors are compared."""
    fingerprint: str | None = None
    """Fingerprint of the encoder; None for vectors from elsewhere, which get one from their content."""
    encoder: str | None = None
    """Version of the encoder in the store, or None."""
    corpora: tuple[str, ...] = ()
    """Specs of the corpora that were embedded."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON values for the manifest."""


class VectorWriter:
    """Writes ``vectors.npy`` chunk after chunk; the number of rows may be known only at the end.

    Args:
        directory: where the file goes.
        dimension: D.

    Raises:
        StorageError: the disk is full or failed.
    """

    def __init__(self, directory: Path, *, dimension: int) -> None:
        self._path = directory / VECTORS
        self._dimension = dimension
        self.count = 0
        with storage_guard(self._path):
            self._stream = self._path.open("w+b")
            self._write_header()
            self._start = self._stream.tell()

    def _write_header(self) -> None:
        # NumPy pads the header so that it may be rewritten in place as the first dimension grows.
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self._dimension)}
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, x_BD: F32Array) -> None:
        """Adds rows.

        Raises:
            DimensionMismatchError: another dimension.
            InvalidVectorError: a value is not finite.
        """
        if x_BD.ndim != 2 or x_BD.shape[1] != self._dimension:
            raise DimensionMismatchError(f"vectors have shape {x_BD.shape}, wanted (rows, {self._dimension})")
        if not np.isfinite(x_BD).all():
            row = self.count + int(np.flatnonzero(~np.isfinite(x_BD).all(axis=1))[0])
            raise InvalidVectorError(f"vector {row} has a value that is not finite")
        with storage_guard(self._path):
            self._stream.write(np.ascontiguousarray(x_BD, dtype="<f4").tobytes())
        self.count += len(x_BD)

    def read_back(self, rows_K: I64Array) -> F32Array:
        """Returns rows written before.

        Args:
            rows_K: row numbers in [0, count).
        """
        if not len(rows_K):
            return np.empty((0, self._dimension), np.float32)
        self._stream.flush()
        shape = (self.count, self._dimension)
        return np.memmap(self._path, np.float32, mode="r", offset=self._start, shape=shape)[rows_K]

    def close(self) -> None:
        """Writes the number of rows and closes the file."""
        with storage_guard(self._path), self._stream:
            self._write_header()

    def abort(self) -> None:
        """Closes the file without finishing it."""
        self._stream.close()


def write_vectors(directory: Path, chunks: Iterable[F32Array], *, dimension: int) -> int:
    """Writes ``vectors.npy`` and returns the number of rows.

    Args:
        directory: where the file goes.
        chunks: float32 arrays of shape (rows, D), rows may differ.
        dimension: D.

    Raises:
        DimensionMismatchError: a chunk has another dimension.
        InvalidVectorError: a value is not finite.
        StorageError: the disk is full or failed.
    """
    writer = VectorWriter(directory, dimension=dimension)
    try:
        for x_BD in chunks:
            writer.append(x_BD)
    except BaseException:
        writer.abort()
        raise
    writer.close()
    return writer.count


def write_embeddings(
    directory: Path,
    vectors: F32Array | Iterable[F32Array],
    items: Iterable[Item | ItemRows],
    *,
    info: EmbeddingsInfo,
    kinds: Mapping[str, str] | None = None,
    quarantine: Iterable[Quarantined] = (),
) -> Manifest:
    """Writes an embeddings artifact into an empty directory, such as one of ``Store.stage("embeddings")``.

    Args:
        directory: where to; it exists.
        vectors: x_ND, float32, or chunks of its rows.
        items: N items in the order of the vectors; read after the vectors.
        info: what the artifact says of itself.
        kinds: types of the metadata columns; worked out from the items (all in memory) where None.
        quarantine: what could not be embedded; read after the items.

    Returns:
        The manifest.

    Raises:
        DimensionMismatchError: vectors of another dimension than ``info`` says.
        InvalidVectorError: a value is not finite, or there are not as many vectors as items.
        InvalidCorpusError: two items have the same id.
        StorageError: the disk is full or failed.
    """
    chunks = [vectors] if isinstance(vectors, np.ndarray) else vectors
    vector_count = write_vectors(directory, chunks, dimension=info.dimension)
    item_count = write_items(directory, items, kinds=kinds)
    if vector_count != item_count:
        raise InvalidVectorError(f"there are {vector_count} vectors for {item_count} items; wanted one each")
    reasons = write_quarantine(directory, quarantine)
    return finish(directory, info=info, count=item_count, reasons=reasons)


def write_quarantine(directory: Path, entries: Iterable[Quarantined]) -> dict[str, int]:
    """Writes ``quarantine.jsonl``; returns how many entries there are of each reason."""
    reasons: Counter[str] = Counter()
    with storage_guard(directory), (directory / QUARANTINE).open("w", encoding="utf-8") as stream:
        for entry in entries:
            reasons[entry.reason] += 1
            stream.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
    return dict(sorted(reasons.items()))


def finish(directory: Path, *, info: EmbeddingsInfo, count: int, reasons: Mapping[str, int]) -> Manifest:
    """Writes the manifest over vectors, items and quarantine that are there.

    Args:
        directory: the artifact, complete but for its manifest.
        info: what the artifact says of itself.
        count: N.
        reasons: number of quarantined entries of each reason.
    """
    body: JsonObject = {
        "fingerprint": info.fingerprint or content_fingerprint(directory, info),
        "dimension": info.dimension,
        "metric": info.metric.value,
        "count": count,
        "encoder": info.encoder,
        "corpora": list(info.corpora),
        "quarantined_count": sum(reasons.values()),
        "quarantine": dict(reasons),
        **info.details,
    }
    return write_manifest(directory, kind=KIND, version=FORMAT_VERSION, body=body)


def content_fingerprint(directory: Path, info: EmbeddingsInfo) -> str:
    """Returns a fingerprint for vectors that no encoder of ours made, from the vectors themselves."""
    vectors = digest_file(directory / VECTORS)
    return canonical_digest({"vectors": vectors, "dimension": info.dimension, "metric": info.metric.value})


class Embeddings:
    """An embeddings artifact, opened.

    Args:
        path: its directory.
        manifest: its manifest, checked.

    Raises:
        CorruptArtifactError: a file is not of this format, or they do not belong together.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.items = ItemTable(path)
        try:
            self.fingerprint = str(manifest.body["fingerprint"])
            self.dimension = int(manifest.body["dimension"])
            self.metric = Metric(manifest.body["metric"])
            self.count = int(manifest.body["count"])
            encoder = manifest.body["encoder"]
            self.encoder: str | None = None if encoder is None else str(encoder)
            self.corpora = tuple(str(spec) for spec in manifest.body["corpora"])
            vectors_ND = np.load(path / VECTORS, mmap_mode="r", allow_pickle=False)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptArtifactError(f"the embeddings at {path} are damaged: {error}") from error
        self.vectors_ND: F32Array = vectors_ND
        shape, wanted = vectors_ND.shape, (self.count, self.dimension)
        if shape != wanted or vectors_ND.dtype != np.float32 or self.items.count != self.count:
            raise CorruptArtifactError(
                f"{path / VECTORS} is {vectors_ND.dtype} {shape} for {self.items.count} items, wanted {wanted}"
            )

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> "Embeddings":
        """Opens an embeddings artifact.

        Args:
            path: its directory.
            verify: compare the SHA-256 of every file with the manifest.

        Raises:
            ArtifactNotFoundError: there are no embeddings at that path.
            CorruptArtifactError: a file is damaged or of an unknown version; it is named.
        """
        return cls(path, read_manifest(path, kind=KIND, version=FORMAT_VERSION, verify=verify))

    @property
    def version(self) -> str:
        """Name of its directory: the version in the store."""
        return self.path.name

    def labels(self) -> npt.NDArray[np.object_]:
        """Returns the corpus's own class of each item (for evaluation only), or None, as N objects."""
        return np.asarray(self.items.column("label").to_pylist(), dtype=object)

    def quarantine(self) -> Iterator[Quarantined]:
        """Yields what could not be embedded."""
        with (self.path / QUARANTINE).open(encoding="utf-8") as stream:
            for line in stream:
                yield Quarantined(**json.loads(line))
