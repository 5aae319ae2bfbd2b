"""Which rank of how many this process is, from what the launcher put into the environment.

torchrun, ``fabric run`` and Slurm are understood, with no coordinator: each rank takes its own
shards, and rank 0 merges when all are there.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vicinal.errors import BusyError, FailedPreconditionError, InvalidConfigError
from vicinal.locks import is_held, locked

_POLL_S = 0.1
_ATTEMPTS = 5
_LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The place of this process among those that share the job."""

    number: int = 0
    """From 0; rank 0 merges."""
    count: int = 1
    """Processes, at least 1."""
    local: int = 0
    """Number on its machine: the GPU that it takes."""

    def takes(self, shard: int) -> bool:
        """Says whether a shard is this rank's."""
        return shard % self.count == self.number


def rank_of(environment: Mapping[str, str] | None = None) -> Rank:
    """Returns the rank of this process; rank 0 of 1 where no launcher has started it.

    Args:
        environment: variables to read; those of the process by default.

    Raises:
        InvalidConfigError: the launcher's variables make no sense.
    """
    variables = os.environ if environment is None else environment
    for number, count, local in _LAUNCHERS:
        if number not in variables or count not in variables:
            continue
        try:
            rank = Rank(number=int(variables[number]), count=int(variables[count]), local=int(variables.get(local, 0)))
        except ValueError as error:
            raise InvalidConfigError(f"{number}, {count} or {local} is not a whole number: {error}") from error
        if not 0 <= rank.number < rank.count:
            raise InvalidConfigError(f"{number}={rank.number} with {count}={rank.count}; wanted a rank below the count")
        return rank
    return Rank()


@contextlib.contextmanager
def hold_rank(directory: Path, rank: Rank) -> Iterator[None]:
    """Holds this rank's place in a job; it is free again if the process dies.

    Raises:
        BusyError: the same rank of the same job is running.
        StorageError: the lock cannot be made.
    """
    with contextlib.ExitStack() as stack:
        for attempt in range(_ATTEMPTS):
            try:
                stack.enter_context(locked(_lock_path(directory, rank.number), shared=False, wait=False))
                break
            except BusyError:
                # Rank 0 looks who is running by trying the lock, for a moment.
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_POLL_S)
        yield


def wait_for_shards(paths: Sequence[Path], directory: Path, rank: Rank, *, wait_s: float) -> None:
    """Waits until every shard of every rank is there.

    Args:
        paths: the shard files, by number.
        directory: the job's directory, where the ranks hold their places.
        rank: this rank.
        wait_s: how long to wait without any progress, in seconds.

    Raises:
        FailedPreconditionError: shards are missing and nothing has come for too long.
    """
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    deadline = time.monotonic() + wait_s
    while missing:
        left = [number for number in missing if not paths[number].is_file()]
        if len(left) < len(missing) or any(is_held(_lock_path(directory, n % rank.count)) for n in left):
            deadline = time.monotonic() + wait_s
        missing = left
        if missing and time.monotonic() > deadline:
            ranks = sorted({number % rank.count for number in missing})
            raise FailedPreconditionError(
                f"{len(missing)} shards are missing and ranks {ranks} of {rank.count} do not run; "
                "start all ranks again: what is finished is kept"
            )
        time.sleep(_POLL_S if missing else 0)


def _lock_path(directory: Path, number: int) -> Path:
    return directory / f"rank-{number}.lock"
