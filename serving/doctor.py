"""Looks at machine, versions, workspace, snapshot, port and GPU, and says in words what is wrong."""

import importlib.metadata
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.access import KeyFile
from serving.config import ServeConfig
from serving.security import make_tls
from serving.worker import core_count
from vicinal.errors import NoActiveSnapshotError, VicinalError
from vicinal.store import Store

if TYPE_CHECKING:
    from index.snapshot import Snapshot

_PACKAGES = ("grpcio", "protobuf", "numpy", "pyarrow", "torch", "uvloop")
_FULL_SHARE = 0.05
_FULL_CHANGES = 2
"""Part of the changes that may wait from which it is time for a refresh: one in so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    what: str
    """What was looked at."""
    state: str
    """``ok``, ``warning`` or ``error``."""
    message: str
    """What was found, and what to do about it."""


def examine(workspace: Path, config: ServeConfig, *, verify: bool) -> list[Finding]:
    """Runs every check.

    Args:
        workspace: directory of the workspace.
        config: the configuration that would be served.
        verify: check the SHA-256 of every file of the active snapshot.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("machine", _machine),
        ("packages", _packages),
        ("index library", _faiss),
        ("GPU", _gpu),
        ("workspace", lambda: _workspace(workspace)),
        ("snapshot", lambda: _snapshot(workspace, config, verify=verify)),
        ("port", lambda: _port(config)),
        ("security", lambda: _security(config)),
    ]
    findings: list[Finding] = []
    for what, check in checks:
        try:
            findings += check()
        except VicinalError as error:
            findings.append(Finding(what=what, state="error", message=error.message))
        except Exception as error:  # noqa: BLE001 - a check that breaks is itself a finding
            findings.append(Finding(what=what, state="error", message=f"{type(error).__name__}: {error}"))
    return findings


def _machine() -> Iterator[Finding]:
    cores = core_count()
    text = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {cores} cores"
    yield Finding(what="machine", state="ok", message=text)
    if not hasattr(socket, "SO_REUSEPORT"):
        message = "ports cannot be shared here; set listen.processes to 1"
        yield Finding(what="machine", state="warning", message=message)


def _packages() -> Iterator[Finding]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            state = "warning" if name == "uvloop" else "error"
            yield Finding(what="packages", state=state, message=f"{name} is missing; pip install 'vicinal[service]'")
    yield Finding(what="packages", state="ok", message=", ".join(found))


def _faiss() -> Iterator[Finding]:
    from index.blas import load_faiss  # noqa: PLC0415 - a broken library is a finding

    yield Finding(what="index library", state="ok", message=f"FAISS {load_faiss().__version__}, products are right")


def _gpu() -> Iterator[Finding]:
    from vicinal.encoder import resolve_device  # noqa: PLC0415 - imports torch

    device = resolve_device("auto")
    yield Finding(what="GPU", state="ok", message=f"the encoder runs on {device}")


def _workspace(workspace: Path) -> Iterator[Finding]:
    store = Store(workspace)
    counts = ", ".join(f"{len(store.versions(family))} {family}" for family in ("encoders", "embeddings", "snapshots"))
    yield Finding(what="workspace", state="ok", message=f"{workspace}: {counts}")
    usage = shutil.disk_usage(workspace)
    free = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f}"
    if usage.free < _FULL_SHARE * usage.total:
        yield Finding(what="workspace", state="warning", message=f"the disk is nearly full: {free}; run: vicinal gc")
    else:
        yield Finding(what="workspace", state="ok", message=free)


def _snapshot(workspace: Path, config: ServeConfig, *, verify: bool) -> Iterator[Finding]:
    from serving.generation import open_generation  # noqa: PLC0415 - imports FAISS, which has its own check

    store = Store(workspace)
    try:
        active = store.active()
    except NoActiveSnapshotError as error:
        yield Finding(what="snapshot", state="warning", message=error.message)
        return
    generation = open_generation(store, f"snapshots/{active.snapshot}", number=active.generation, verify=verify)
    snapshot = generation.base
    checked = "every file is whole" if verify else "checksums were not compared"
    encoder = "with an encoder" if generation.encoder is not None else "without an encoder (no image queries)"
    yield Finding(
        what="snapshot",
        state="ok",
        message=f"{snapshot.name}: {snapshot.count:,} items, {snapshot.dimension}-d, {snapshot.kind}, "
        f"{encoder}; {checked}",
    )
    yield _changes(store, snapshot, most=config.limits.max_pending_items)


def _changes(store: Store, snapshot: "Snapshot", *, most: int) -> Finding:
    from index.delta import Delta  # noqa: PLC0415 - with the index, which has its own check
    from index.live import folded_number  # noqa: PLC0415

    number = folded_number(snapshot)
    delta = Delta(
        store,
        fingerprint=snapshot.fingerprint,
        dimension=snapshot.dimension,
        metric=snapshot.metric,
        after=number,
    )
    tail = delta.tail(after=number)
    text = f"{len(tail.changed):,} items were upserted or deleted since; the next refresh folds them in"
    if not tail.changed:
        return Finding(what="changes", state="ok", message="no items were upserted or deleted since")
    if len(tail.items) * _FULL_CHANGES < most:
        return Finding(what="changes", state="ok", message=text)
    message = f"{text}. At {most:,} (limits.max_pending_items) no more are taken: run vicinal refresh"
    return Finding(what="changes", state="warning", message=message)


def _port(config: ServeConfig) -> Iterator[Finding]:
    listen = config.listen
    with socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host.strip("[]"), listen.port))
        except OSError as error:
            message = f"{listen.host}:{listen.port} cannot be opened ({error.strerror}); a server may be running there"
            yield Finding(what="port", state="warning", message=message)
            return
    yield Finding(what="port", state="ok", message=f"{listen.host}:{listen.port} is free")


def _security(config: ServeConfig) -> Iterator[Finding]:
    make_tls(config.tls)
    if config.auth.keys_file:
        keys = KeyFile(path=Path(config.auth.keys_file)).read()
        yield Finding(what="security", state="ok", message=f"{len(keys)} keys in {config.auth.keys_file}")
    tls = "mutual TLS" if config.tls.client_ca else "TLS" if config.tls.certificate else "plain text"
    exposed = config.listen.insecure and config.listen.host not in {"127.0.0.1", "localhost", "::1"}
    message = f"{tls} on {config.listen.host}" + ("; anybody who reaches it may use it" if exposed else "")
    yield Finding(what="security", state="warning" if exposed else "ok", message=message)
