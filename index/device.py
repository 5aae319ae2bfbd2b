"""GPUs: the only file of the index that knows of them.

An index is trained, and searched, on GPUs where there are some and the kind allows it; it is
always saved from its copy on the CPU. A GPU index is not safe even for concurrent reads, so one
thread for each placed index asks it, whoever calls.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from index.blas import load_faiss
from index.kind import INDEX_FILE
from index.storage import read_faiss
from vicinal.errors import FailedPreconditionError, InvalidArgumentError
from vicinal.types import F32Array, I64Array

GPU_KINDS = frozenset({"ivf_flat", "ivf_sq8", "ivf_pq"})
"""Kinds whose index FAISS can put on a GPU: no graphs, no fast-scan."""
MOST_NEIGHBORS = 2048
"""Neighbours and probed lists at most, on a GPU."""
_SPARE_SHARE = 0.8
_SCRATCH_BYTES = 1 << 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where an index is put."""

    mode: Literal["replicate", "shard"] = "replicate"
    """A whole copy on each GPU, or a part on each."""
    float16: bool = False
    """Keep vectors and tables in half precision."""
    devices: tuple[int, ...] = ()
    """Numbers of GPUs. Default: all."""


def gpu_count() -> int:
    """Returns how many GPUs FAISS sees; 0 for a build without them or with none there."""
    count = getattr(load_faiss(), "get_num_gpus", None)
    return int(count()) if count is not None else 0


def resolve_device(device: str, *, kind: str) -> str:
    """Returns ``cpu`` or ``gpu`` for what a user asked.

    Args:
        device: ``auto``, ``cpu`` or ``gpu``.
        kind: kind of the index.

    Raises:
        InvalidArgumentError: no such device.
        FailedPreconditionError: ``gpu`` where there is none, or for a kind that cannot be there.
    """
    if device not in {"auto", "cpu", "gpu"}:
        raise InvalidArgumentError(f"device is {device!r}, wanted auto, cpu or gpu", field="device")
    if device == "cpu":
        return "cpu"
    there = gpu_count() > 0
    if device == "auto":
        return "gpu" if there and kind in GPU_KINDS else "cpu"
    if kind not in GPU_KINDS:
        raise FailedPreconditionError(f"kind {kind} cannot be on a GPU; kinds that can: {', '.join(sorted(GPU_KINDS))}")
    if not there:
        raise FailedPreconditionError("no GPU is visible to FAISS; use device auto or cpu")
    return "gpu"


def check_memory(bytes_needed: float, placement: Placement) -> None:
    """Refuses an index that would not fit.

    Args:
        bytes_needed: memory of the whole index.
        placement: where it would be put.

    Raises:
        FailedPreconditionError: it does not fit; says what is needed and there.
    """
    devices = placement.devices or tuple(range(gpu_count()))
    share = bytes_needed / (len(devices) if placement.mode == "shard" else 1)
    for number in devices:
        free = load_faiss().get_free_memory(number) if hasattr(load_faiss(), "get_free_memory") else float("inf")
        if share + _SCRATCH_BYTES > _SPARE_SHARE * free:
            raise FailedPreconditionError(
                f"GPU {number} has {free / 2**30:.1f} GiB free, the index needs {share / 2**30:.1f}; shard it, or use "
                "a smaller kind"
            )


def train(faiss_index: Any, x_ND: F32Array) -> Any:
    """Trains an index, on the GPUs where there are some.

    Args:
        faiss_index: untrained, on the CPU.
        x_ND: training vectors.

    Returns:
        The trained index, on the CPU.
    """
    if gpu_count() == 0:
        faiss_index.train(x_ND)
        return faiss_index
    placed = place(faiss_index, Placement())
    placed.train(x_ND)
    return load_faiss().index_gpu_to_cpu(placed)


def place(faiss_index: Any, placement: Placement) -> Any:
    """Copies an index to the GPUs.

    Args:
        faiss_index: on the CPU.
        placement: where to.

    Returns:
        The copy.
    """
    faiss = load_faiss()
    options = faiss.GpuMultipleClonerOptions()
    options.shard = placement.mode == "shard"
    options.useFloat16 = options.useFloat16CoarseQuantizer = placement.float16
    options.usePrecomputed = False
    devices = list(placement.devices) or list(range(gpu_count()))
    resources = [faiss.StandardGpuResources() for _ in devices]
    return faiss.index_cpu_to_gpu_multiple_py(resources, faiss_index, options, devices)


class Dispatcher:
    """Asks an index from one thread, whoever calls; a ``Searcher``.

    Args:
        faiss_index: an index with inverted lists, on a GPU (or, for tests, on the CPU).
        list_count: lists of the index.
    """

    is_concurrent = False
    """Callers wait for each other: they do better together, in one batch."""

    def __init__(self, faiss_index: Any, *, list_count: int) -> None:
        self._faiss = load_faiss()
        self._index = faiss_index
        self._list_count = list_count
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpu-search")

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows; see ``Searcher``.

        Raises:
            InvalidArgumentError: more neighbours or lists than a GPU can.
        """
        probed = min(effort, self._list_count)
        for name, value in (("neighbor_count", neighbor_count), ("effort", probed)):
            if value > MOST_NEIGHBORS:
                raise InvalidArgumentError(f"{name} is {value}, a GPU takes at most {MOST_NEIGHBORS}", field=name)
        return self._thread.submit(self._ask, x_QD, neighbor_count, probed).result()

    def _ask(self, x_QD: F32Array, neighbor_count: int, probed: int) -> I64Array:
        params = self._faiss.SearchParametersIVF(nprobe=probed)
        rows_QK: I64Array = self._index.search(x_QD, neighbor_count, params=params)[1]
        return rows_QK


def open_on_gpu(directory: Path, *, placement: Placement) -> Dispatcher:
    """Opens the index in a snapshot's directory on GPUs.

    Args:
        directory: the snapshot.
        placement: where to put it.

    Raises:
        CorruptArtifactError: the file cannot be read.
        FailedPreconditionError: it does not fit.
    """
    path = directory / INDEX_FILE
    check_memory(path.stat().st_size, placement)
    faiss_index = read_faiss(path, mapped=False)
    return Dispatcher(place(faiss_index, placement), list_count=int(faiss_index.nlist))
