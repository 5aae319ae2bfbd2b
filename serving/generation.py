"""One immutable generation of what is served, and how it is opened: checked, with its encoder, warmed."""

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from index.live import LiveSnapshot, Searchable, folded_number
from index.snapshot import Snapshot
from vicinal.codec import encode_ref
from vicinal.errors import NoActiveSnapshotError
from vicinal.store import Active, Store
from vicinal.types import SnapshotRef
from vicinal.v1 import types_pb2

if TYPE_CHECKING:
    from vicinal.encoder import Encoder

logger = logging.getLogger(__name__)
_WARM_QUERIES = 32
_QUICK_S = 1e-3


class _Lease:
    """Shared by the generations of one open snapshot; when the last is gone, the snapshot is closed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """One snapshot in service, with its encoder."""

    snapshot: Searchable
    """The searchable index and its items, with what came after it."""
    encoder: "Encoder | None"
    """Embeds image queries; None when the snapshot carries none."""
    ref: SnapshotRef
    """Goes into every reply."""
    ref_message: types_pb2.SnapshotRef
    """The same, encoded once."""
    quick: bool
    """Whether a query takes so little (under a millisecond) that no thread is worth its switch."""
    base_quick: bool
    """The same of the snapshot without what came after it."""
    lease: object
    """Lets the files be collected when the last request has let go of it."""
    created_s: float = field(default_factory=time.time)
    """Unix time at which it was opened."""

    @property
    def base(self) -> Snapshot:
        """The snapshot without what came after it."""
        return self.snapshot.snapshot if isinstance(self.snapshot, LiveSnapshot) else self.snapshot


LoadEncoder = Callable[[Path], "Encoder"]


def load_encoder(path: Path) -> "Encoder":
    """Loads an encoder; torch is imported by the first snapshot that needs it."""
    from serving.torch_thread import load  # noqa: PLC0415 - seconds and memory that vector-only servers need not spend

    return load(path)


def open_generation(
    store: Store,
    name: str,
    *,
    number: int | None = None,
    verify: bool = True,
    known: Sequence[Generation] = (),
    encoder_loader: LoadEncoder = load_encoder,
) -> Generation:
    """Opens a snapshot, with its encoder, and warms it.

    Args:
        store: the workspace.
        name: ``snapshots/000007``.
        number: number of the activation; None looks it up in the alias's history.
        verify: check the SHA-256 of every file.
        known: generations that are open, whose encoder is taken when it is the same.
        encoder_loader: opens the encoder inside a snapshot.

    Raises:
        SnapshotNotFoundError: no such snapshot.
        CorruptArtifactError: it is damaged.
    """
    started_s = time.monotonic()
    path = store.path("snapshots", name)
    snapshot = Snapshot.open(path, verify=verify)
    lease = _Lease()
    weakref.finalize(lease, snapshot.close)
    encoder = next((g.encoder for g in known if g.encoder and g.ref.fingerprint == snapshot.fingerprint), None)
    if encoder is None and snapshot.encoder_path is not None:
        encoder = encoder_loader(snapshot.encoder_path)
    quick = _warm(snapshot) < _QUICK_S
    ref = SnapshotRef(
        name=name,
        fingerprint=snapshot.fingerprint,
        generation=_activation_of(store, path.name) if number is None else number,
        delta_number=folded_number(snapshot),
    )
    logger.info("opened %s in %.2f s", name, time.monotonic() - started_s)
    return Generation(
        snapshot=snapshot,
        encoder=encoder if snapshot.encoder_path is not None else None,
        ref=ref,
        ref_message=encode_ref(ref),
        quick=quick,
        base_quick=quick,
        lease=lease,
    )


def renumber(generation: Generation, number: int) -> Generation:
    """Returns the same generation under the number of another activation."""
    ref = replace(generation.ref, generation=number)
    return replace(generation, ref=ref, ref_message=encode_ref(ref))


def _warm(snapshot: Snapshot) -> float:
    """Searches for some of its own items; returns the seconds of the quickest."""
    rows = range(0, snapshot.count, max(1, snapshot.count // _WARM_QUERIES))
    quickest_s = float("inf")
    for row in rows:
        started_s = time.perf_counter()
        snapshot.search(snapshot.vectors_ND[row : row + 1], neighbor_count=min(10, snapshot.count))
        quickest_s = min(quickest_s, time.perf_counter() - started_s)
    return quickest_s


def _activation_of(store: Store, version: str) -> int:
    try:
        active: Active = store.active()
    except NoActiveSnapshotError:
        return 0
    if active.snapshot == version:
        return active.generation
    for back, name in enumerate(reversed(active.history), start=1):
        if name == version:
            return active.generation - back
    return 0
