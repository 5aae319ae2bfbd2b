"""What every artifact on disk has in common: a manifest that names its format and checks its files.

An artifact is a directory with ``manifest.json``: format, format_version, created_at, a body, and
for every other file its size and SHA-256. Readers refuse an unknown format or version, a missing,
truncated or changed file, and name it.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vicinal.errors import ArtifactNotFoundError, CorruptArtifactError, StorageError
from vicinal.types import JsonObject

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The manifest of an artifact."""

    format: str
    """What it is, such as ``vicinal.snapshot``."""
    format_version: int
    """Version of the layout; readers refuse a version they do not know."""
    created_at: str
    """ISO 8601, UTC."""
    body: JsonObject
    """What the artifact says of itself."""
    files: dict[str, JsonObject]
    """``{"bytes": int, "sha256": hex}`` of every other file, by its path in the artifact."""


@contextlib.contextmanager
def storage_guard(path: Path) -> Iterator[None]:
    """Turns an OSError into a StorageError that names the path and the way out.

    Raises:
        StorageError: the disk is full, over quota, read-only or failed.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"no space left for {where}; nothing that is served has changed; free space or run: vicinal gc"
            ) from error
        raise StorageError(f"cannot write {where}: {error}") from error


def digest_file(path: Path) -> str:
    """Returns the SHA-256 of a file, streamed, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(directory: Path, *, kind: str, version: int, body: Mapping[str, Any]) -> Manifest:
    """Writes ``manifest.json`` over the files that are already in the directory.

    Args:
        directory: the artifact, complete but for its manifest.
        kind: what it is, such as ``snapshot``.
        version: version of the layout, at least 1.
        body: JSON values without NaN.

    Raises:
        StorageError: the disk is full or failed.
    """
    with storage_guard(directory):
        paths = sorted(p for p in directory.rglob("*") if p.is_file() and p.relative_to(directory) != Path(MANIFEST))
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(digest_file, paths))
        files: dict[str, JsonObject] = {
            path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        }
        manifest = Manifest(
            format=f"vicinal.{kind}",
            format_version=version,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            body=dict(body),
            files=files,
        )
        fields = {name: getattr(manifest, name) for name in Manifest.__slots__}
        text = json.dumps(fields, indent=1, sort_keys=True, allow_nan=False)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(directory: Path, *, kind: str, version: int, verify: bool = True) -> Manifest:
    """Reads and checks the manifest of an artifact.

    Args:
        directory: the artifact.
        kind: what it must be, such as ``snapshot``.
        version: newest version of the layout that the caller can read.
        verify: also compare the SHA-256 of every file (in parallel); sizes are always compared.

    Raises:
        ArtifactNotFoundError: there is no artifact at that path.
        CorruptArtifactError: another kind, an unknown version, or a damaged file, which is named.
    """
    path = directory / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**{name: raw[name] for name in Manifest.__slots__})
    except FileNotFoundError as error:
        raise ArtifactNotFoundError(f"no {kind} at {directory}: {MANIFEST} is missing") from error
    except OSError as error:
        raise ArtifactNotFoundError(f"cannot read {path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(path, "is not a manifest") from error
    if manifest.format != f"vicinal.{kind}":
        raise _corrupt(path, f"is a {manifest.format}, wanted vicinal.{kind}")
    if manifest.format_version not in range(1, version + 1):
        raise _corrupt(path, f"has format_version {manifest.format_version}, this build reads 1 to {version}")
    check_files(directory, manifest, verify=verify)
    return manifest


def check_files(directory: Path, manifest: Manifest, *, verify: bool) -> None:
    """Checks that every file of a manifest is there, whole and, with verify, unchanged.

    Raises:
        CorruptArtifactError: a file is missing, of another size, or changed; it is named.
    """
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise _corrupt(path, "is missing")
        if path.stat().st_size != entry["bytes"]:
            raise _corrupt(path, f"has {path.stat().st_size} bytes, its manifest says {entry['bytes']}")
    if not verify:
        return
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: digest_file(directory / name), manifest.files)
        for (name, entry), digest in zip(manifest.files.items(), digests, strict=True):
            if digest != entry["sha256"]:
                raise _corrupt(directory / name, "has changed since it was written (SHA-256 differs)")


def sync_tree(directory: Path) -> None:
    """Flushes every file and directory below a directory to the disk."""
    for path in [directory, *directory.rglob("*")]:
        sync_path(path)


def sync_path(path: Path) -> None:
    """Flushes one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _corrupt(path: Path, what: str) -> CorruptArtifactError:
    return CorruptArtifactError(
        f"{path} {what}; restore it from a copy or build it again", metadata={"file": path.name, "path": str(path)}
    )
