"""Removes what nothing uses any more: old snapshots, the embeddings that only they used, leftovers of crashes."""

import shutil
import time
import uuid

from vicinal.artifact import MANIFEST, read_manifest, storage_guard
from vicinal.errors import VicinalError
from vicinal.locks import is_held
from vicinal.store import Store

_TRIAL_AGE_S = 3600


def collect(store: Store, *, keep: int, pinned: frozenset[str] = frozenset()) -> list[str]:
    """Removes old snapshots and embeddings; never what is active, pinned, open, or the newest.

    Args:
        store: the workspace.
        keep: newest snapshots to keep, at least 1, besides the active, pinned and open ones.
        pinned: further snapshots to keep.

    Returns:
        What was removed, such as ``snapshots/000001`` and ``embeddings/000001``.

    Raises:
        StorageError: the disk failed; what is served has not changed.
    """
    removed = store.collect(keep=keep, pinned=pinned)
    with storage_guard(store.root), store.lock():
        used = _used_embeddings(store)
        if used is not None:
            for version in store.versions("embeddings")[:-1]:
                path = store.path("embeddings", version)
                if f"embeddings/{version}" in used or is_held(path / MANIFEST):
                    continue
                trash = store.root / ".staging" / f"trash-{uuid.uuid4().hex}"
                path.rename(trash)
                shutil.rmtree(trash)
                removed.append(f"embeddings/{version}")
        for path in (store.root / "work").glob("trial-*"):
            if time.time() - path.stat().st_mtime > _TRIAL_AGE_S:
                shutil.rmtree(path, ignore_errors=True)
    return removed


def _used_embeddings(store: Store) -> set[str] | None:
    """Returns the embeddings that snapshots were built from; None where a snapshot does not say."""
    used = set()
    for version in store.versions("snapshots"):
        try:
            manifest = read_manifest(store.path("snapshots", version), kind="snapshot", version=1, verify=False)
        except VicinalError:
            return None
        used.add(str(manifest.body["embeddings"]))
    return used or None
