"""Encoders that run in one thread of the process, in which torch keeps its OpenMP threads awake.

Every thread that calls torch gets a team of OpenMP threads of its own. Where the teams have more threads than there are
cores, GNU's OpenMP library no longer lets an idle one spin for the next piece of work, and waking it for each of the
many short ones of a forward pass takes longer than some of them: an image of a small encoder took up to twice as long.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from typing_extensions import override

from vicinal.encoder import Encoder
from vicinal.types import F32Array, U8Array

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")


class TorchThreadEncoder(Encoder):
    """An encoder that embeds in that thread, whichever thread asks."""

    @override
    def embed(self, x_BCHW: U8Array) -> F32Array:
        """Embeds images, after those that others have asked for; see ``Encoder.embed``."""
        return _thread.submit(super().embed, x_BCHW).result()


def load(path: Path) -> Encoder:
    """Loads an encoder, in that thread too; see ``Encoder.load``."""
    return _thread.submit(TorchThreadEncoder.load, path).result()
