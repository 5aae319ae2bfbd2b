"""The workspace on disk: immutable versions of artifacts and one pointer to the active snapshot.

    WORKSPACE/
      workspace.json               format and version of the workspace
      encoders/000001/             versions of a family, complete and immutable once there
      embeddings/000001/ snapshots/000001/ bridges/000001/
      active.json                  the alias: which snapshot is served, and the ones before it
      labels/ runs/ work/ reports/ owned by the stages that write them
      .staging/                    versions being written; never read

A version is written in ``.staging``, flushed, and renamed into its family; the alias is a small
file that is replaced by rename. So a crash at any moment leaves whole versions and a valid alias.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vicinal.artifact import MANIFEST, storage_guard, sync_path, sync_tree
from vicinal.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    InvalidArgumentError,
    NoActiveSnapshotError,
    SnapshotNotFoundError,
)
from vicinal.locks import is_held, locked

FAMILIES = ("encoders", "embeddings", "snapshots", "bridges")
FORMAT_VERSION = 1
_HISTORY_LENGTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """The alias: which snapshot is served."""

    snapshot: str
    """Version of the snapshot, such as ``000007``."""
    generation: int
    """Number of the activation, from 1; it only grows."""
    activated_at: str
    """ISO 8601, UTC."""
    history: list[str] = field(default_factory=list)
    """Versions served before, newest last."""


class Staging:
    """A version being written; ``path`` is its directory, ``commit()`` puts it in its family."""

    def __init__(self, store: "Store", family: str, path: Path) -> None:
        self.path = path
        self.version: str | None = None
        self._store = store
        self._family = family

    def commit(self) -> str:
        """Flushes the directory and renames it into its family.

        Returns:
            The new version, six digits or more.

        Raises:
            StorageError: the disk is full or failed; the family has not changed.
        """
        assert self.version is None, "committed twice"
        assert (self.path / MANIFEST).is_file(), "an artifact is committed with its manifest"
        with storage_guard(self.path), self._store.lock():
            sync_tree(self.path)
            family = self._store.root / self._family
            numbers = [int(name) for name in self._store.versions(self._family)]
            version = f"{max([self._store.counter(self._family), *numbers]) + 1:06d}"
            family.mkdir(exist_ok=True)  # a family that is younger than the workspace
            self.path.rename(family / version)
            sync_path(family)
            self._store.set_counter(self._family, int(version))
        self.version = version
        return version


class Store:
    """A workspace.

    Args:
        root: its directory, which must be a workspace; see ``Store.create``.

    Raises:
        ArtifactNotFoundError: the directory is not a workspace.
        CorruptArtifactError: a workspace of an unknown version.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        path = root / "workspace.json"
        try:
            version = json.loads(path.read_text(encoding="utf-8"))["format_version"]
        except OSError as error:
            raise ArtifactNotFoundError(
                f"{root} is not a Vicinal workspace ({path.name} is missing); run: vicinal pretrain or vicinal embed"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifactError(f"{path} is damaged", metadata={"file": path.name}) from error
        if version != FORMAT_VERSION:
            raise CorruptArtifactError(f"{path} has format_version {version}, this build reads {FORMAT_VERSION}")

    @classmethod
    def create(cls, root: Path) -> "Store":
        """Opens the workspace at a path, and makes one there first if there is none.

        Raises:
            StorageError: the directory cannot be made or written.
            InvalidArgumentError: the directory holds something else.
        """
        marker = root / "workspace.json"
        if not marker.exists():
            if root.exists() and (not root.is_dir() or any(p.name != "runs" for p in root.iterdir())):
                raise InvalidArgumentError(f"{root} exists and is not a Vicinal workspace; name an empty directory")
            with storage_guard(root):
                for name in (*FAMILIES, ".staging", "labels", "runs", "work", "reports"):
                    (root / name).mkdir(parents=True, exist_ok=True)
                _replace(marker, {"format_version": FORMAT_VERSION, "counters": {}})
        return cls(root)

    @contextlib.contextmanager
    def lock(self, *, wait: bool = True) -> Iterator[None]:
        """Holds the writers' lock of the workspace; it is free again if the holder dies.

        Raises:
            BusyError: another process holds it and ``wait`` is false.
        """
        with locked(self.root / ".lock", shared=False, wait=wait):
            yield

    @contextlib.contextmanager
    def stage(self, family: str) -> Iterator[Staging]:
        """Gives a new directory to write a version of a family in; what is not committed is removed."""
        assert family in FAMILIES, family
        path = self.root / ".staging" / uuid.uuid4().hex
        guard = path.with_suffix(".lock")
        try:
            with contextlib.ExitStack() as stack:
                with storage_guard(path), self.lock():  # so that a collection sees both or neither
                    path.parent.mkdir(exist_ok=True)
                    stack.enter_context(locked(guard, shared=False, wait=True))
                    path.mkdir()
                with storage_guard(path):
                    yield Staging(self, family, path)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            guard.unlink(missing_ok=True)

    def counter(self, family: str) -> int:
        """Returns the highest version number ever given in a family, 0 at first."""
        raw = json.loads((self.root / "workspace.json").read_text(encoding="utf-8"))
        return int(raw.get("counters", {}).get(family, 0))

    def set_counter(self, family: str, number: int) -> None:
        """Records the highest version number given in a family, so that none is given twice."""
        path = self.root / "workspace.json"
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw.setdefault("counters", {})[family] = number
        _replace(path, raw)

    def versions(self, family: str) -> list[str]:
        """Returns the versions of a family, oldest first."""
        return sorted((p.name for p in (self.root / family).glob("[0-9]*") if p.name.isdecimal()), key=int)

    def path(self, family: str, version: str) -> Path:
        """Returns the directory of a version.

        Args:
            family: one of ``FAMILIES``.
            version: ``000007``, ``7``, ``snapshots/000007`` or ``latest``.

        Raises:
            SnapshotNotFoundError: no such snapshot.
            ArtifactNotFoundError: no such encoder or embeddings.
        """
        name = version.removeprefix(f"{family}/")
        known = self.versions(family)
        if name == "latest" and known:
            name = known[-1]
        name = f"{int(name):06d}" if name.isascii() and name.isdecimal() and len(name) < 20 else name
        if name not in known:
            cls = SnapshotNotFoundError if family == "snapshots" else ArtifactNotFoundError
            have = f"there are {known[0]} to {known[-1]}" if known else "there are none yet"
            raise cls(f"no {family}/{name[:40]} in {self.root}; {have}", metadata={"name": version[:100]})
        return self.root / family / name

    def active(self) -> Active:
        """Returns the alias.

        Raises:
            NoActiveSnapshotError: nothing has been published.
            CorruptArtifactError: the alias is damaged.
        """
        path = self.root / "active.json"
        try:
            return Active(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise NoActiveSnapshotError(f"no snapshot is active in {self.root}; run: vicinal publish") from error
        except (OSError, ValueError, TypeError) as error:
            raise CorruptArtifactError(f"{path} is damaged: {error}", metadata={"file": path.name}) from error

    def activate(self, version: str) -> Active:
        """Points the alias at a snapshot, by one rename.

        Args:
            version: a snapshot, as for ``path``; its integrity is the caller's to check before.

        Raises:
            SnapshotNotFoundError: no such snapshot.
            StorageError: the disk is full or failed; the alias has not changed.
        """
        name = self.path("snapshots", version).name
        with self.lock():
            try:
                before: Active | None = self.active()
            except NoActiveSnapshotError:
                before = None
            history = [*before.history, before.snapshot][-_HISTORY_LENGTH:] if before else []
            active = Active(
                snapshot=name,
                generation=before.generation + 1 if before else 1,
                activated_at=datetime.now(UTC).isoformat(timespec="seconds"),
                history=history,
            )
            with storage_guard(self.root):
                _replace(self.root / "active.json", asdict(active))
        return active

    def rollback(self) -> Active:
        """Points the alias at the last snapshot served before that is another and still there.

        Raises:
            NoActiveSnapshotError: nothing has been published.
            SnapshotNotFoundError: there is no earlier snapshot to go back to.
        """
        active = self.active()
        known = set(self.versions("snapshots"))
        for name in reversed(active.history):
            if name != active.snapshot and name in known:
                return self.activate(name)
        raise SnapshotNotFoundError(f"no snapshot was served before {active.snapshot} that is still there")

    @contextlib.contextmanager
    def hold(self, family: str, version: str) -> Iterator[Path]:
        """Keeps a version from being collected while it is open."""
        path = self.path(family, version)
        with locked(path / MANIFEST, shared=True, wait=True):
            self.path(family, version)  # it may have been collected between the look and the lock
            yield path

    def collect(self, *, keep: int, pinned: frozenset[str] = frozenset()) -> list[str]:
        """Removes old snapshots and whatever crashed writers left behind.

        Args:
            keep: newest snapshots to keep, at least 1, besides the active, pinned and open ones.
            pinned: further snapshots to keep.

        Returns:
            What was removed, as ``snapshots/000001``.
        """
        removed: list[str] = []
        with self.lock():
            with contextlib.suppress(NoActiveSnapshotError):
                pinned = pinned | {self.active().snapshot}
            for version in self.versions("snapshots")[: -max(keep, 1)]:
                path = self.root / "snapshots" / version
                if version in pinned or is_held(path / MANIFEST):
                    continue
                trash = self.root / ".staging" / f"trash-{uuid.uuid4().hex}"
                path.rename(trash)
                shutil.rmtree(trash)
                removed.append(f"snapshots/{version}")
            for path in {entry.with_suffix("") for entry in (self.root / ".staging").iterdir()}:
                if not is_held(path.with_suffix(".lock")):
                    shutil.rmtree(path, ignore_errors=True)
                    path.with_suffix(".lock").unlink(missing_ok=True)
        return removed


def _replace(path: Path, value: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
