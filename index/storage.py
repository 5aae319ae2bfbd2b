"""How FAISS's data lies on disk, and how FAISS reads the vectors of a snapshot where they are.

An HNSW graph needs the vectors beside it. FAISS's own file would hold a second copy of them on
disk and in memory; instead a FAISS flat index is laid over the memory map. The header that FAISS
expects right before the data is written over the padding of the npy header, in a private page of
the map: the file on disk is never changed.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from index.blas import load_faiss
from vicinal.artifact import storage_guard
from vicinal.errors import CorruptArtifactError
from vicinal.types import F32Array, Metric


def faiss_metric(metric: Metric) -> int:
    """Returns FAISS's number of a metric; embeddings of unit length make cosine an inner product."""
    faiss = load_faiss()
    return int(faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT)


def map_vectors(path: Path) -> F32Array:
    """Maps an npy file of float32 rows, read-only on disk, shared between processes.

    Args:
        path: a C-contiguous float32 array (N, D).

    Raises:
        CorruptArtifactError: the file is no such array.
    """
    try:
        vectors_ND: F32Array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CorruptArtifactError(f"{path} cannot be mapped: {error}", metadata={"file": path.name}) from error
    if vectors_ND.ndim != 2 or vectors_ND.dtype != np.float32 or not vectors_ND.flags.c_contiguous:
        raise CorruptArtifactError(
            f"{path} holds {vectors_ND.dtype} {vectors_ND.shape}, wanted float32 (N, D)", metadata={"file": path.name}
        )
    return vectors_ND


def flat_over_map(path: Path, metric: Metric) -> tuple[Any, Any]:
    """Lays a FAISS flat index over an npy file without copying it.

    Args:
        path: a C-contiguous float32 array (N, D).
        metric: how closeness is computed.

    Returns:
        The FAISS index, and the memory that it reads, which must live as long.
    """
    faiss = load_faiss()
    vectors_ND = map_vectors(path)
    count, dimension = vectors_ND.shape
    flat = faiss.IndexFlat(dimension, faiss_metric(metric))
    if count == 0:
        return flat, None
    header = bytearray(faiss.serialize_index(flat).tobytes())
    # "IxF." | dimension i32 | count i64 | ... | number of floats u64, and then the floats themselves.
    header[8:16] = struct.pack("<q", count)
    header[-8:] = struct.pack("<Q", vectors_ND.size)
    raw = np.memmap(path, mode="c", dtype=np.uint8)
    first = raw.size - vectors_ND.nbytes
    if first < len(header):
        flat.add(vectors_ND)
        return flat, None
    raw[first - len(header) : first] = np.frombuffer(bytes(header), np.uint8)
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(raw[first - len(header) :]), vectors_ND.nbytes + len(header))
    mapped = faiss.read_index(reader)
    assert (mapped.ntotal, mapped.d) == (count, dimension), "FAISS changed its file format"
    return mapped, raw


def write_faiss(faiss_index: Any, path: Path, *, without_storage: bool = False) -> None:
    """Writes a FAISS index.

    Args:
        faiss_index: the index, on the CPU.
        path: file to write.
        without_storage: leave out the vectors of a graph; ``flat_over_map`` gives them back.

    Raises:
        StorageError: the disk is full or failed.
    """
    faiss = load_faiss()
    # Through Python's own file, so that a full disk is an OSError, also when the last buffer is flushed.
    with storage_guard(path), path.open("wb") as stream:
        writer = faiss.PyCallbackIOWriter(stream.write)
        faiss.write_index(faiss_index, writer, faiss.IO_FLAG_SKIP_STORAGE if without_storage else 0)


def read_faiss(path: Path, *, mapped: bool = True) -> Any:
    """Reads a FAISS index.

    Args:
        path: a file that ``write_faiss`` wrote.
        mapped: leave the data in the memory map, shared between processes and read-only.

    Raises:
        CorruptArtifactError: the file is missing, truncated or of another version; it is named.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        reason = str(error).rsplit("Error: ", 1)[-1].splitlines()[0][:200]
        raise CorruptArtifactError(
            f"{path} cannot be read by FAISS {faiss.__version__} ({reason}); build it again",
            metadata={"file": path.name},
        ) from error
