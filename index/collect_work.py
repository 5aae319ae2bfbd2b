"""Removes jobs in progress that nobody goes on with: never one that is running, nor one touched of late."""

import contextlib
import shutil
import time
import uuid
from pathlib import Path

from vicinal.errors import BusyError
from vicinal.locks import locked
from vicinal.store import Store

_DAY_S = 86_400.0
WORK_DAYS = 7.0
"""Days for which an embed job that was cut short can be continued."""
_TRIAL_DAYS = 1 / 24


def collect_work(store: Store, *, work_days: float = WORK_DAYS) -> list[str]:
    """Removes abandoned embed jobs, trial builds, and what was left half removed.

    Args:
        store: the workspace.
        work_days: days since anything of an embed job was written, at least 0.

    Returns:
        The jobs that were removed, such as ``work/embed-0123456789abcdef``.
    """
    work = store.root / "work"
    idle = [path for path in sorted(work.glob("embed-*")) if _idle_days(path) >= work_days]
    removed = [f"work/{path.name}" for path in idle if _set_aside(path)]
    for path in work.glob("trial-*"):
        if _idle_days(path) >= _TRIAL_DAYS:
            shutil.rmtree(path, ignore_errors=True)
    for path in work.glob("trash-*"):
        shutil.rmtree(path, ignore_errors=True)
    return removed


def _idle_days(path: Path) -> float:
    newest = 0.0
    for entry in (path, *path.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, entry.stat().st_mtime)
    return (time.time() - newest) / _DAY_S


def _set_aside(path: Path) -> bool:
    """Renames a job's directory, so that none can go on with half of it; false where a rank of it runs."""
    with contextlib.ExitStack() as stack:
        try:
            for lock in sorted(path.glob("rank-*.lock")):
                stack.enter_context(locked(lock, shared=False, wait=False))
        except BusyError:
            return False
        path.rename(path.with_name(f"trash-{uuid.uuid4().hex}"))
    return True
