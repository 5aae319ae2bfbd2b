"""A snapshot: one immutable, searchable build of the index, opened from its directory.

    snapshots/000007/
      manifest.json                kind, parameters, fingerprint, curve, checksums of all files
      vectors.npy                  embeddings float32 (N, D), shared with the embeddings by hard link
      items.arrow items.lookup.npy what is known of each row
      index.faiss                  the index, absent for flat
      coarse.npy coarse_lists.npy  lists that filtered search walks, absent for small corpora
      encoder/                     the encoder that made the embeddings, where there is one

The sentinels of an index, -1 and inf, end here.
"""

import fcntl
import functools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from index.blas import threads_for
from index.coarse import Coarse
from index.curve import EXACT_EFFORT, CurvePoint, effort_for, expected_recall, from_json
from index.engine import Engine
from index.filters import Columns, Filter, matching
from index.kind import VECTORS_FILE
from index.query_vectors import checked_queries
from index.selection import Selection
from index.single import SingleSearch
from index.storage import map_vectors
from index.unwanted import numbers_of
from vicinal.artifact import MANIFEST, Manifest, read_manifest
from vicinal.errors import (
    CorruptArtifactError,
    InvalidArgumentError,
    SnapshotNotFoundError,
)
from vicinal.item_table import ItemTable
from vicinal.types import F32Array, I64Array, Metric, Neighbors

FORMAT_VERSION = 1
ENCODER_DIRECTORY = "encoder"
_SCAN_SHARE = 4
_REMEMBERED_SELECTIONS = 8


class Snapshot:
    """A snapshot that is open; safe to search from several threads. Made by ``Snapshot.open``."""

    def __init__(self, path: Path, manifest: Manifest, held: IO[bytes], *, device: str) -> None:
        body = manifest.body
        self.path = path
        self.name = f"snapshots/{path.name}"
        self.manifest = manifest
        self.kind: str = body["kind"]
        self.params: dict[str, Any] = body["params"]
        self.fingerprint: str = body["fingerprint"]
        self.metric = Metric(body["metric"])
        self.dimension: int = body["dimension"]
        self.count: int = body["count"]
        self.curve: tuple[CurvePoint, ...] = from_json(body["curve"])
        self.default_effort: int = body["default_effort"]
        self.vectors_ND = map_vectors(path / VECTORS_FILE)
        self.items = ItemTable(path)
        encoder = path / ENCODER_DIRECTORY
        self.encoder_path: Path | None = encoder if encoder.is_dir() else None
        self.filter_candidates = tuple((float(share), int(count)) for share, count in body["filter_candidates"])
        self._held: IO[bytes] | None = held
        self.coarse = Coarse.open(path)
        self._selections: OrderedDict[str, Selection] = OrderedDict()
        self._selections_lock = threading.Lock()
        self._at_hand = threading.local()
        if not self.vectors_ND.shape == (self.count, self.dimension) or len(self.items) != self.count:
            raise CorruptArtifactError(f"{path} holds {self.vectors_ND.shape} vectors and {len(self.items)} items")
        self._engine = Engine(path, kind=self.kind, params=self.params, metric=self.metric, vectors_ND=self.vectors_ND)
        self._engine.move_to(path, device=device, kind=self.kind)

    @classmethod
    def open(cls, path: Path, *, verify: bool = True, device: str = "cpu") -> Self:
        """Opens a snapshot, memory-mapped; it is not collected while it is open.

        Args:
            path: its directory.
            verify: compare the checksum of every file first.
            device: where the index is searched: ``cpu``, ``gpu``, or ``auto`` for a GPU where there is one.

        Raises:
            FailedPreconditionError: ``gpu`` where there is none, or for a kind that cannot be there.
            SnapshotNotFoundError: there is no snapshot at that path.
            CorruptArtifactError: a file is missing, truncated, changed or of an unknown version; it is named.
        """
        try:
            held = (path / MANIFEST).open("rb")
        except OSError as error:
            raise SnapshotNotFoundError(f"no snapshot at {path}", metadata={"name": path.name}) from error
        try:
            fcntl.flock(held, fcntl.LOCK_SH)
            manifest = read_manifest(path, kind="snapshot", version=FORMAT_VERSION, verify=verify)
            return cls(path, manifest, held, device=device)
        except (KeyError, TypeError) as error:
            held.close()
            raise CorruptArtifactError(
                f"{path / MANIFEST} lacks what this build needs: {error}", metadata={"file": MANIFEST}
            ) from error
        except BaseException:
            held.close()
            raise

    def close(self) -> None:
        """Lets the snapshot be collected; searches under way end well, later ones are a bug of the caller."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_queries(self, x_QD: F32Array) -> F32Array:
        """Returns query vectors ready to be searched: float32, C-contiguous, of unit length under cosine.

        Args:
            x_QD: vectors (Q, D).

        Raises:
            DimensionMismatchError: D is not the snapshot's.
            InvalidVectorError: a value is not finite or too large, or a vector is zero under cosine.
        """
        return checked_queries(x_QD, dimension=self.dimension, metric=self.metric, name=self.name)

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int | None = None) -> Neighbors:
        """Finds the nearest items of each query.

        Args:
            x_QD: query vectors (Q, D).
            neighbor_count: neighbours wanted of each, at least 1.
            effort: search effort, at least 1; 0 is exact search. Default: the snapshot's own.

        Returns:
            min(neighbor_count, items) neighbours of each query, best first.

        Raises:
            InvalidArgumentError: neighbor_count or effort is out of range.
            DimensionMismatchError, InvalidVectorError: see ``check_queries``.
        """
        effort = self.default_effort if effort is None else effort
        if effort < 0:
            raise InvalidArgumentError(f"effort is {effort}, wanted at least 1", field="options.effort")
        x_QD = np.ascontiguousarray(x_QD, dtype=np.float32)
        if x_QD.shape == (1, self.dimension):
            found = self._search_lone(x_QD, neighbor_count=neighbor_count, effort=effort)
            if found is not None:
                return found
        return self.search_checked(self.check_queries(x_QD), neighbor_count=neighbor_count, effort=effort)

    def _search_lone(self, x_1D: F32Array, *, neighbor_count: int, effort: int) -> Neighbors | None:
        """Searches for one vector with what this thread has at hand; None where the general path must."""
        kept = self._at_hand
        if getattr(kept, "asked", None) != (neighbor_count, effort):
            kept.single = self.single(neighbor_count, effort=effort)
            kept.asked = (neighbor_count, effort)
        if kept.single is None:
            return None
        kept.single.query[:] = x_1D.tobytes()
        with threads_for(0):
            found = kept.single.search()
        if found is None:
            return None
        rows_1K, scores_1K = found[0][None].copy(), found[1][None].copy()
        return Neighbors(rows_QK=rows_1K, scores_QK=scores_1K, counts_Q=np.full(1, rows_1K.shape[1], np.int64))

    def search_checked(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> Neighbors:
        """Does what ``search`` does, with queries that ``check_queries`` returned and an effort of at least 0."""
        count = self._check_count(neighbor_count)
        effort = EXACT_EFFORT if self.is_exact(count, effort) else min(effort, self.count)
        rows_QK, scores_QK = self._engine.search(x_QD, neighbor_count=count, effort=effort)
        if rows_QK.min(initial=0) < 0:
            short_Q = np.flatnonzero((rows_QK < 0).any(axis=1))
            # Too few lists probed, or a part of the graph that cannot be reached.
            rows_QK[short_Q], scores_QK[short_Q] = self._engine.exact(x_QD[short_Q], neighbor_count=count)
        return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=np.full(len(x_QD), count, np.int64))

    def single(self, neighbor_count: int, *, effort: int) -> SingleSearch | None:
        """Returns what does as ``search`` for one vector after the other in one thread; None where there is no such."""
        count = self._check_count(neighbor_count)
        if self.is_exact(count, effort):
            return None
        return self._engine.single(neighbor_count=count, effort=min(effort, self.count))

    def exact(self, x_QD: F32Array, *, neighbor_count: int, rows_N: I64Array | None = None) -> Neighbors:
        """Finds the nearest items of each query by comparing it with all of them, or with some.

        Args:
            x_QD: query vectors (Q, D).
            neighbor_count: neighbours wanted of each, at least 1.
            rows_N: the rows to compare with, int64, each once. Default: all.

        Returns:
            min(neighbor_count, rows) neighbours of each query, best first; ties in the order of the rows.

        Raises:
            InvalidArgumentError: neighbor_count is out of range.
            DimensionMismatchError, InvalidVectorError: see ``check_queries``.
        """
        x_QD = self.check_queries(x_QD)
        count = self._check_count(neighbor_count)
        rows_QK, scores_QK = self._engine.exact(x_QD, neighbor_count=count, rows_M=rows_N)
        counts_Q = np.full(len(x_QD), rows_QK.shape[1], dtype=np.int64)
        return Neighbors(rows_QK=rows_QK, scores_QK=scores_QK, counts_Q=counts_Q)

    def effort_for(self, target_recall: float) -> int:
        """Returns the cheapest effort measured to reach a recall; 0, exact search, where none was.

        Args:
            target_recall: recall wanted, in (0, 1]; 1 is exact search.

        Raises:
            InvalidArgumentError: out of range.
        """
        if not 0 < target_recall <= 1:
            raise InvalidArgumentError(
                f"target_recall is {target_recall}, wanted above 0 and at most 1", field="options.target_recall"
            )
        return effort_for(self.curve, target_recall)

    def expected_recall(self, effort: int) -> float:
        """Returns the recall that was measured at an effort, 0 where none was; exact search has 1."""
        return 1.0 if self._engine.is_exact else expected_recall(self.curve, effort)

    def vectors_of(self, rows: I64Array) -> F32Array:
        """Returns the embeddings of rows, float32 (R, D)."""
        return np.ascontiguousarray(self.vectors_ND[rows])

    @property
    def is_concurrent(self) -> bool:
        """Whether searches run beside each other; else the index is asked by one thread, whoever calls."""
        return self._engine.is_concurrent

    def is_exact(self, neighbor_count: int, effort: int) -> bool:
        """Returns whether a search with that count and effort compares with every item."""
        # An index that returns a good part of the items does more work than a scan.
        return effort == EXACT_EFFORT or self._engine.is_exact or neighbor_count * _SCAN_SHARE >= self.count

    def select(self, where: Filter, *, columns: Columns | None = None) -> Selection:
        """Returns the items that match a filter, ready to be searched; the last few are remembered.

        Args:
            where: the filter.
            columns: further columns of N values by name, such as ``labels.NAME``; with them nothing is remembered.

        Raises:
            NotFoundError: no such column.
            InvalidArgumentError: see ``index.filters.matching``.
        """
        key = repr(where)  # not the filter: True == 1 == 1.0 in Python, and they are not the same filter
        with self._selections_lock:
            known = None if columns else self._selections.get(key)
            if known is not None:
                self._selections.move_to_end(key)
                return known
        mask_N = matching(where, self.items, columns=columns)
        selection = Selection(mask_N, vectors_ND=self.vectors_ND, metric=self.metric, coarse=self.coarse)
        if not columns:
            with self._selections_lock:
                self._selections[key] = selection
                while len(self._selections) > _REMEMBERED_SELECTIONS:
                    self._selections.popitem(last=False)
        return selection

    @functools.cached_property
    def content_numbers(self) -> I64Array:
        """A number for the content of each item, int64 (N,): equal for items with identical bytes."""
        return numbers_of(self.items.column("digest"))

    def _check_count(self, neighbor_count: int) -> int:
        if neighbor_count < 1:
            raise InvalidArgumentError(
                f"neighbor_count is {neighbor_count}, wanted at least 1", field="options.neighbor_count"
            )
        return min(neighbor_count, self.count)
