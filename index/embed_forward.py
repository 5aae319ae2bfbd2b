"""Forward passes in threads, so that processors are never idle and never wait for each other.

On processors each pass runs on few threads of its own instead of all: decoding takes turns with it,
and a pass that is spread over all processors stands still whenever one of them decodes.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch

from vicinal.encoder import Encoder
from vicinal.types import F32Array, U8Array

_MOST_PASSES = 8


class ForwardPool:
    """Runs batches through an encoder; results come in the order that their caller asks for.

    Args:
        model: the encoder, which is safe to use from several threads.
    """

    def __init__(self, model: Encoder) -> None:
        processors = len(os.sched_getaffinity(0))
        on_processors = model.device.type == "cpu"
        passes = min(processors, _MOST_PASSES) if on_processors else 1
        self._model = model
        self._threads_of_one = max(1, processors // passes) if on_processors else 0
        self._threads_before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(passes, thread_name_prefix="forward")
        # One batch waits for each that runs, so that memory is bounded and no thread runs dry.
        self._free = threading.BoundedSemaphore(2 * passes)

    def submit(self, images: list[U8Array]) -> "Future[F32Array]":
        """Queues a batch; waits while too many are queued.

        Args:
            images: B images, uint8 CHW, of the encoder's size.

        Returns:
            The future of x_BD.
        """
        self._free.acquire()
        future = self._pool.submit(self._embed, images)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def _embed(self, images: list[U8Array]) -> F32Array:
        if self._threads_of_one and torch.get_num_threads() != self._threads_of_one:
            torch.set_num_threads(self._threads_of_one)  # counts for this thread, and for ones begun later
        return self._model.embed(np.stack(images))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the threads; what is queued is dropped after an error."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)
