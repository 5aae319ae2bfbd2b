"""Calibrations kept under a name, each belonging to one fingerprint."""

import json
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from serving.fewshot.thresholds import Curve, Threshold, thinned
from vicinal.artifact import storage_guard, sync_path
from vicinal.errors import (
    CorruptArtifactError,
    FingerprintMismatchError,
    InvalidArgumentError,
    NotFoundError,
    did_you_mean,
)
from vicinal.store import Store
from vicinal.types import F32Array, I64Array

PREFIX = "calibrations/"
FORMAT_VERSION = 1
_NAME = re.compile(r"[a-z0-9-]{1,63}")
_POINT = ("precision", "recall", "f1", "fpr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Thresholds fitted to a label set."""

    name: str
    """Resource name."""
    fingerprint: str
    """Of the embeddings that it was fitted on."""
    default_target: str
    """The target whose thresholds are used."""
    created_at: str
    """ISO 8601, UTC."""
    thresholds: list[Threshold]
    """All of them."""
    curve: list[list[float]]
    """Points of score, precision, recall, F1 and false positive rate."""

    def limits(self, classes: Sequence[str], said_Q: I64Array) -> F32Array:
        """Returns the score that a match needs for each query, by the class it was given.

        Args:
            classes: labels by class number.
            said_Q: class number of each query, int64 (Q,).
        """
        mine = {one.label: one.score for one in self.thresholds if one.target == self.default_target}
        by_class = np.array([mine.get(label, mine[""]) for label in classes], dtype=np.float32)
        return by_class[said_Q]


def make(name: str, *, fingerprint: str, thresholds: list[Threshold], curve: Curve, default_target: str) -> Calibration:
    """Makes a calibration of fitted thresholds.

    Raises:
        InvalidArgumentError: a bad name, or a default target that was not fitted.
    """
    known = {one.target for one in thresholds}
    if default_target not in known:
        raise InvalidArgumentError(
            f"unknown target {default_target[:64]!r}{did_you_mean(default_target, known)}", field="default_target"
        )
    places = thinned(curve)
    columns = [curve.score_T, *(curve.metrics[metric] for metric in _POINT)]
    return Calibration(
        name=PREFIX + _plain(name),
        fingerprint=fingerprint,
        default_target=default_target,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        thresholds=thresholds,
        curve=np.stack([np.asarray(column, np.float64)[places] for column in columns], axis=1).tolist(),
    )


def save(store: Store, calibration: Calibration) -> None:
    """Writes a calibration, in the place of one of the same name.

    Raises:
        StorageError: the disk is full or failed; the old one is still there.
    """
    path = _path(store, calibration.name)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with storage_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump({"format_version": FORMAT_VERSION, **asdict(calibration)}, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_path(path.parent)


def load(store: Store, name: str, *, fingerprint: str) -> Calibration:
    """Reads a calibration for embeddings of a fingerprint.

    Raises:
        NotFoundError: there is none of that name.
        FingerprintMismatchError: it was fitted on embeddings of another fingerprint.
        CorruptArtifactError: its file is damaged.
    """
    path = _path(store, name)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format_version") != FORMAT_VERSION:
            raise CorruptArtifactError(f"{path} is of another format version; fit it again: vicinal label calibrate")
        thresholds = [Threshold(**one) for one in raw.pop("thresholds")]
        found = Calibration(thresholds=thresholds, **raw)
    except FileNotFoundError as error:
        known = [one.stem for one in path.parent.glob("*.json")]
        raise NotFoundError(f"no {PREFIX}{_plain(name)}{did_you_mean(_plain(name), known)}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifactError(f"{path} is damaged; fit it again: vicinal label calibrate") from error
    if found.fingerprint != fingerprint:
        raise FingerprintMismatchError(
            f"{found.name} was fitted on embeddings of fingerprint {found.fingerprint[:12]}..., the snapshot has "
            f"{fingerprint[:12]}...; fit it again: vicinal label calibrate",
            metadata={"calibration": found.name},
        )
    return found


def _path(store: Store, name: str) -> Path:
    return store.root / "labels" / "calibrations" / f"{_plain(name)}.json"


def _plain(name: str) -> str:
    plain = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(plain):
        raise InvalidArgumentError(
            f"{name[:80]!r} is not a calibration name; use 1 to 63 of a-z, 0-9 and -, such as 'calibrations/clothes'",
            field="name",
        )
    return plain
