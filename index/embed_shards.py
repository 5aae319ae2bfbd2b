"""Shards of an embed job: files committed one by one, and which digests they hold.

A shard file is an npz (whose checksums show a torn file) written beside its place, flushed and
renamed. Its rows are those of the plan's shard: each embedded here, or of known content, or
quarantined.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vicinal.artifact import storage_guard, sync_path
from vicinal.corpus import Quarantined
from vicinal.item_table import U64Array
from vicinal.types import F32Array, I64Array, U8Array

QUARANTINED = -1
"""State of a row that could not be embedded."""
KNOWN = -2
"""State of a row whose content an earlier shard of the same rank, or the base, holds."""
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One finished shard."""

    digests_N32: U8Array
    """SHA-256 of the content of each row; zeros where it could not be read."""
    states_N: npt.NDArray[np.int32]
    """Row in ``vectors_UD``, or ``QUARANTINED`` or ``KNOWN``."""
    vectors_UD: F32Array
    """Embeddings of the contents first seen here."""
    quarantine: list[Quarantined]
    """The quarantined rows, in order."""


def write_shard(path: Path, shard: Shard) -> None:
    """Writes a shard so that it is there whole or not at all.

    Raises:
        StorageError: the disk is full or failed.
    """
    notes = json.dumps([asdict(entry) for entry in shard.quarantine]).encode()
    temporary = path.with_suffix(".tmp")
    with storage_guard(path):
        with temporary.open("wb") as stream:
            np.savez(
                stream,
                digests=shard.digests_N32,
                states=shard.states_N,
                vectors=shard.vectors_UD,
                quarantine=np.frombuffer(notes, np.uint8),
            )
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_path(path.parent)


def read_shard(path: Path, *, rows: int | None = None, dimension: int) -> Shard | None:
    """Reads a shard; None when it is missing, torn or of another shape, so that it is made again.

    Args:
        path: the file.
        rows: how many rows it must have, if known.
        dimension: D.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shard = Shard(
                digests_N32=arrays["digests"],
                states_N=arrays["states"],
                vectors_UD=arrays["vectors"],
                quarantine=[Quarantined(**entry) for entry in json.loads(arrays["quarantine"].tobytes())],
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    count = len(shard.states_N)
    fits = shard.digests_N32.shape == (count, DIGEST_BYTES) and shard.vectors_UD.shape[1:] == (dimension,)
    return shard if fits and rows in {None, count} else None


def read_quarantine(path: Path) -> Iterator[Quarantined]:
    """Yields the quarantined rows of a finished shard, without reading its vectors."""
    with np.load(path, allow_pickle=False) as arrays:
        entries = json.loads(arrays["quarantine"].tobytes())
    yield from (Quarantined(**entry) for entry in entries)


def digests_of_hex(texts: Sequence[str]) -> U8Array:
    """Returns hexadecimal SHA-256 digests as bytes, uint8 (N, 32)."""
    return np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, DIGEST_BYTES)


class DigestIndex:
    """Finds the number that belongs to a digest, for millions of them at 24 bytes each.

    Sorted runs of doubling size: adding stays cheap, and a lookup is a few binary searches. Of
    each digest 128 bits are compared; two contents agreeing in these do not occur.
    """

    def __init__(self) -> None:
        self._runs: tuple[tuple[U64Array, U64Array, I64Array], ...] = ()

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self._runs)

    def add(self, digests_N32: U8Array, numbers_N: I64Array) -> None:
        """Adds digests that are not in it yet, each with its number."""
        if not len(digests_N32):
            return
        run = _sorted(*_halves(digests_N32), numbers_N)
        runs = list(self._runs)
        while runs and len(runs[-1][0]) <= 2 * len(run[0]):
            last = runs.pop()
            run = _sorted(
                np.concatenate([last[0], run[0]]), np.concatenate([last[1], run[1]]), np.concatenate([last[2], run[2]])
            )
        # One assignment: other threads look things up meanwhile.
        self._runs = (*runs, run)

    def find(self, digests_N32: U8Array) -> I64Array:
        """Returns the number of each digest, or -1."""
        found_N = np.full(len(digests_N32), -1, np.int64)
        if not len(digests_N32):
            return found_N
        high_N, low_N = _halves(digests_N32)
        for high, low, numbers in self._runs:
            places = np.minimum(np.searchsorted(high, high_N), len(high) - 1)
            same = (high[places] == high_N) & (low[places] == low_N)
            found_N[same] = numbers[places[same]]
        return found_N


def _halves(digests_N32: U8Array) -> tuple[U64Array, U64Array]:
    words = np.ascontiguousarray(digests_N32).view(np.uint64)
    return words[:, 0], words[:, 1]


def _sorted(high: U64Array, low: U64Array, numbers: I64Array) -> tuple[U64Array, U64Array, I64Array]:
    order = np.argsort(high, kind="stable")
    return high[order], low[order], numbers[order]
