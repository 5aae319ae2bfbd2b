"""Removes what nothing uses any more: old snapshots, the embeddings that only they used, leftovers of crashes."""

import contextlib
import shutil
import uuid

from index.collect_work import WORK_DAYS, collect_work
from index.delta_drop import drop_folded
from index.engines.milvus import drop_collection
from index.engines.milvus_place import places_of
from vicinal.artifact import MANIFEST, read_manifest, storage_guard
from vicinal.errors import VicinalError
from vicinal.locks import is_held
from vicinal.store import Store
from vicinal.types import JsonObject


def collect(
    store: Store, *, keep: int, pinned: frozenset[str] = frozenset(), work_days: float = WORK_DAYS
) -> list[str]:
    """Removes old snapshots, embeddings, bridges and jobs; never what is active, pinned, open, running or the newest.

    Args:
        store: the workspace.
        keep: newest snapshots to keep, at least 1, besides the active, pinned and open ones.
        pinned: further snapshots to keep.
        work_days: days after which an embed job that was cut short is given up.

    Returns:
        What was removed, such as ``snapshots/000001`` and ``embeddings/000001``.

    Raises:
        StorageError: the disk failed; what is served has not changed.
        UnavailableError: a Milvus server failed; the collection of a removed snapshot may be there still.
    """
    places = places_of({version: store.root / "snapshots" / version for version in store.versions("snapshots")})
    removed = store.collect(keep=keep, pinned=pinned)
    for version in set(places) - set(store.versions("snapshots")):
        drop_collection(places[version])
        removed.append(f"milvus/{places[version].collection}")
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
        removed += _collect_bridges(store)
        removed += collect_work(store, work_days=work_days)
    return removed + drop_folded(store)


def _collect_bridges(store: Store) -> list[str]:
    """Removes bridges that end at no snapshot any more, or that a newer one replaced."""
    removed: list[str] = []
    fingerprints = {str(body["fingerprint"]) for body in _bodies(store, "snapshots", "snapshot").values()}
    seen: set[frozenset[str]] = set()
    bridges = _bodies(store, "bridges", "bridge")
    for version in sorted(bridges, key=int, reverse=True):
        ends = frozenset(str(bridges[version][side]["fingerprint"]) for side in ("source", "target"))
        if not ends & fingerprints or ends in seen:
            path = store.path("bridges", version)
            trash = store.root / ".staging" / f"trash-{uuid.uuid4().hex}"
            path.rename(trash)
            shutil.rmtree(trash)
            removed.append(f"bridges/{version}")
        seen.add(ends)
    return removed


def _bodies(store: Store, family: str, kind: str) -> dict[str, JsonObject]:
    found = {}
    for version in store.versions(family):
        with contextlib.suppress(VicinalError):
            path = store.path(family, version)
            found[version] = read_manifest(path, kind=kind, version=1, verify=False).body
    return found


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
