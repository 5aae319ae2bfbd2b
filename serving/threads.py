"""How many cores one piece of work may use: all when it is alone, its share when it is not."""

import os

from index.blas import import_faiss, load_faiss
from serving.board import Board
from serving.worker import core_count


def limit_threads(worker_count: int) -> None:
    """Divides the cores between the workers; to be called before FAISS and torch are loaded.

    What the operator has set (``OMP_NUM_THREADS``) is left alone.

    Args:
        worker_count: workers on this machine, at least 1.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, core_count() // worker_count)))


def import_before_fork(worker_count: int) -> None:
    """Imports FAISS in the process that the workers are forked from, so that they share its memory.

    It makes no thread until it searches, and each worker checks it for itself.

    Args:
        worker_count: workers on this machine, at least 1.
    """
    limit_threads(worker_count)
    import_faiss()


def take_free_cores(board: Board) -> int:
    """Lets the next search of this thread use the cores that no other call needs.

    Args:
        board: tells how many calls are in progress on all workers.

    Returns:
        The cores taken.
    """
    busy = max(1, int(board.total("in_flight")))
    cores = max(1, core_count() // busy)
    load_faiss().omp_set_num_threads(cores)
    return cores
