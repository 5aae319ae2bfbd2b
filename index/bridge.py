"""A bridge between two spaces of embeddings: queries of one encoder answered from the items of another.

    bridges/000001/
      manifest.json         both spaces with their fingerprints, how many pairs, what was measured
      bridge.safetensors    map_DE (orthonormal rows or columns), source_mean_D, target_mean_E

The map is fitted on items that both encoders embedded: the rotation, shift and scale that bring the
ones nearest to the others (orthogonal Procrustes, Schoenemann, Psychometrika 31, 1966; with shift and
scale, Schoenemann and Carroll, Psychometrika 35, 1970). A rotation keeps all distances, so it serves both ways.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from index.exact import exact_search
from vicinal.artifact import read_manifest, storage_guard, write_manifest
from vicinal.errors import CorruptArtifactError, DimensionMismatchError, InvalidArgumentError, VicinalError
from vicinal.store import Store
from vicinal.types import F32Array, F64Array, JsonObject, Metric

FAMILY, KIND, FORMAT_VERSION = "bridges", "bridge", 1
FILE = "bridge.safetensors"
LEAST_PAIRS = 50
_HELD_OUT = 0.1
_NEIGHBOR_COUNT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A space of embeddings."""

    fingerprint: str
    """Of its encoder."""
    dimension: int
    """Dimension of its vectors."""
    metric: Metric
    """How they are compared; under cosine they have unit length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A map between two spaces, usable from either side."""

    source: Space
    """One space, of dimension D."""
    target: Space
    """The other, of dimension E."""
    map_DE: F32Array
    """Orthonormal rows, or columns where D is larger than E."""
    source_mean_D: F32Array
    """Mean of the pairs in the source."""
    target_mean_E: F32Array
    """Mean of the pairs in the target."""
    scale: float
    """Length in the target for one in the source."""
    back_scale: float
    """Length in the source for one in the target; the inverse where both have the same dimension."""

    def apply(self, x_QD: F32Array, *, fingerprint: str) -> F32Array:
        """Maps vectors of one of the two spaces into the other.

        Args:
            x_QD: vectors, float32, finite.
            fingerprint: of the space they are from.

        Returns:
            float32 (Q, E), of unit length where the metric there is cosine; NaN where a vector has no direction or
            is not finite.

        Raises:
            InvalidArgumentError: the bridge does not begin in that space.
            DimensionMismatchError: they do not have the dimension of that space.
        """
        forward = fingerprint == self.source.fingerprint
        if not forward and fingerprint != self.target.fingerprint:
            raise InvalidArgumentError(f"this bridge does not begin at fingerprint {fingerprint[:12]}...")
        begin, end = (self.source, self.target) if forward else (self.target, self.source)
        if x_QD.shape[1] != begin.dimension:
            raise DimensionMismatchError(
                f"vectors of fingerprint {fingerprint[:12]}... have {begin.dimension} dimensions, got {x_QD.shape[1]}"
            )
        norms_Q1 = np.linalg.norm(x_QD.astype(np.float64), axis=1, keepdims=True)
        if begin.metric is Metric.COSINE:
            norms_Q1[norms_Q1 == 0] = np.nan
            x_QD = (x_QD / norms_Q1).astype(np.float32)
        if forward:
            y_QE = (x_QD - self.source_mean_D) @ self.map_DE * self.scale + self.target_mean_E
        else:
            y_QE = (x_QD - self.target_mean_E) @ self.map_DE.T * self.back_scale + self.source_mean_D
        if end.metric is Metric.COSINE:
            y_QE = y_QE / np.maximum(np.linalg.norm(y_QE, axis=1, keepdims=True), 1e-12)
        y_QE[~np.isfinite(norms_Q1[:, 0])] = np.nan
        return np.ascontiguousarray(y_QE, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeQuality:
    """What a bridge is worth, measured on pairs that it was not fitted to."""

    held_out_count: int
    """Pairs it was measured on."""
    own_item: float
    """Share of mapped vectors that have their own item among the 10 nearest of all pairs, in [0, 1]."""
    overlap: float
    """Share of the 10 nearest that are those of the item's own vector in that space, in [0, 1]."""
    shuffled: float
    """``own_item`` of the vectors of other items, which is chance."""


def fit_bridge(
    x_ND: F32Array, y_NE: F32Array, *, source: Space, target: Space, seed: int = 0
) -> tuple[Bridge, BridgeQuality]:
    """Fits a bridge to the embeddings of the same items in two spaces.

    Args:
        x_ND: in the source, float32.
        y_NE: in the target, row for row.
        source: the space of ``x_ND``.
        target: the space of ``y_NE``.
        seed: seed of the choice of a tenth to measure on.

    Raises:
        InvalidArgumentError: fewer than 50 pairs.
    """
    if len(x_ND) < LEAST_PAIRS:
        raise InvalidArgumentError(f"a bridge needs {LEAST_PAIRS} pairs of embeddings, got {len(x_ND)}", field="pairs")
    order_N = np.random.default_rng(seed).permutation(len(x_ND))
    held = order_N[: max(1, int(_HELD_OUT * len(x_ND)))]
    rest = order_N[len(held) :]
    bridge = _fit(x_ND[rest].astype(np.float64), y_NE[rest].astype(np.float64), source, target)
    return bridge, _measure(bridge, x_ND[held], y_NE, held)


def _fit(x_ND: F64Array, y_NE: F64Array, source: Space, target: Space) -> Bridge:
    source_mean_D, target_mean_E = x_ND.mean(axis=0), y_NE.mean(axis=0)
    x_ND, y_NE = x_ND - source_mean_D, y_NE - target_mean_E
    u_DM, _, v_ME = np.linalg.svd(x_ND.T @ y_NE, full_matrices=False)
    map_DE = u_DM @ v_ME
    # Spreads are kept: the scale of least error would shrink queries towards the mean, where hubs are.
    return Bridge(
        source=source,
        target=target,
        map_DE=map_DE.astype(np.float32),
        source_mean_D=source_mean_D.astype(np.float32),
        target_mean_E=target_mean_E.astype(np.float32),
        scale=_ratio(y_NE, x_ND @ map_DE),
        back_scale=_ratio(x_ND, y_NE @ map_DE.T),
    )


def _ratio(one: F64Array, other: F64Array) -> float:
    return float(np.linalg.norm(one)) / max(float(np.linalg.norm(other)), 1e-12)


def _measure(bridge: Bridge, x_QD: F32Array, y_NE: F32Array, rows_Q: Any) -> BridgeQuality:
    mapped_QE = bridge.apply(x_QD, fingerprint=bridge.source.fingerprint)
    y_NE = np.ascontiguousarray(y_NE)
    found_QK, _ = exact_search(mapped_QE, y_NE, metric=bridge.target.metric, neighbor_count=_NEIGHBOR_COUNT)
    true_QK, _ = exact_search(
        np.ascontiguousarray(y_NE[rows_Q]), y_NE, metric=bridge.target.metric, neighbor_count=_NEIGHBOR_COUNT
    )
    overlap = np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found_QK.tolist(), true_QK.tolist(), strict=True)])
    return BridgeQuality(
        held_out_count=len(x_QD),
        own_item=round(float((found_QK == rows_Q[:, None]).any(axis=1).mean()), 4),
        overlap=round(float(overlap), 4),
        shuffled=round(float((found_QK == np.roll(rows_Q, 1)[:, None]).any(axis=1).mean()), 4),
    )


def save_bridge(store: Store, bridge: Bridge, quality: BridgeQuality, *, pair_count: int) -> str:
    """Writes a bridge as a new version.

    Args:
        store: the workspace.
        bridge: the bridge.
        quality: what was measured.
        pair_count: pairs that it was fitted to and measured on.

    Returns:
        The version in the family ``bridges``.

    Raises:
        StorageError: the disk is full or failed.
    """
    body: JsonObject = {
        "source": _describe(bridge.source),
        "target": _describe(bridge.target),
        "scale": bridge.scale,
        "back_scale": bridge.back_scale,
        "pair_count": pair_count,
        "measured": asdict(quality),
    }
    tensors = {name: getattr(bridge, name) for name in ("map_DE", "source_mean_D", "target_mean_E")}
    with store.stage(FAMILY) as staging:
        with storage_guard(staging.path):
            save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, staging.path / FILE)
        write_manifest(staging.path, kind=KIND, version=FORMAT_VERSION, body=body)
        return staging.commit()


def open_bridge(path: Path) -> Bridge:
    """Opens a bridge.

    Args:
        path: its directory.

    Raises:
        ArtifactNotFoundError: there is none at that path.
        CorruptArtifactError: a file is damaged or of an unknown version; it is named.
    """
    manifest = read_manifest(path, kind=KIND, version=FORMAT_VERSION)
    try:
        arrays: Mapping[str, F32Array] = load_file(path / FILE)
        body = manifest.body
        return Bridge(
            source=_space(body["source"]),
            target=_space(body["target"]),
            scale=float(body["scale"]),
            back_scale=float(body["back_scale"]),
            **arrays,
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CorruptArtifactError(f"the bridge at {path} is damaged: {error}", metadata={"file": FILE}) from error


def find_bridge(store: Store, begin: str, end: str) -> Bridge | None:
    """Returns the newest bridge between two fingerprints, whichever way it was fitted; None where there is none.

    Args:
        store: the workspace.
        begin: fingerprint of the queries.
        end: fingerprint of the items.
    """
    for version in reversed(store.versions(FAMILY)):
        path = store.root / FAMILY / version
        try:
            body = read_manifest(path, kind=KIND, version=FORMAT_VERSION, verify=False).body
            if {body["source"]["fingerprint"], body["target"]["fingerprint"]} == {begin, end}:
                return open_bridge(path)
        except (VicinalError, KeyError, TypeError):
            continue  # a damaged one is no bridge; an older one may be whole
    return None


def _describe(space: Space) -> JsonObject:
    return {"fingerprint": space.fingerprint, "dimension": space.dimension, "metric": space.metric.value}


def _space(body: Mapping[str, Any]) -> Space:
    return Space(fingerprint=str(body["fingerprint"]), dimension=int(body["dimension"]), metric=Metric(body["metric"]))
