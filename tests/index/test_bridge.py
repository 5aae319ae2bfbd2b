"""The bridge between two encoders: fitted on pairs, worth what it says, kept with both fingerprints."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from index import refresh_commands
from index.bridge import Bridge, Space, find_bridge, fit_bridge, open_bridge, save_bridge
from index.bridge_pairs import build_bridge
from index.snapshot import Snapshot
from tests.index.made_images import put_encoder, write_images
from tests.index.made_vectors import clustered
from vicinal.embeddings import Embeddings
from vicinal.errors import (
    CorruptArtifactError,
    DimensionMismatchError,
    FingerprintMismatchError,
    InvalidArgumentError,
)
from vicinal.store import Store
from vicinal.types import F32Array, Metric

OLD, NEW = "a" * 64, "b" * 64


def space(name: str, dimension: int, metric: Metric = Metric.L2) -> Space:
    return Space(fingerprint=name, dimension=dimension, metric=metric)


def rotated(x_ND: F32Array, dimension: int, *, noise: float = 0.0, seed: int = 1) -> F32Array:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((max(x_ND.shape[1], dimension),) * 2))
    y_NE = 3 * x_ND @ q[: x_ND.shape[1], :dimension] + rng.standard_normal(dimension)
    noisy_NE: F32Array = (y_NE + noise * rng.standard_normal(y_NE.shape)).astype(np.float32)
    return noisy_NE


def test_a_rotation_with_shift_and_scale_is_found_and_undone() -> None:
    x_ND = clustered(300, 12)
    y_NE = rotated(x_ND, 12)
    bridge, quality = fit_bridge(x_ND, y_NE, source=space(OLD, 12), target=space(NEW, 12))
    np.testing.assert_allclose(bridge.apply(x_ND, fingerprint=OLD), y_NE, atol=1e-3)
    np.testing.assert_allclose(bridge.apply(y_NE, fingerprint=NEW), x_ND, atol=1e-3)
    np.testing.assert_allclose(bridge.map_DE @ bridge.map_DE.T, np.eye(12), atol=1e-5)
    assert (quality.held_out_count, quality.own_item) == (30, 1.0)
    assert quality.overlap > 0.95
    assert quality.shuffled < 0.3


@pytest.mark.parametrize("dimension", [8, 20])
@pytest.mark.parametrize("metric", list(Metric))
def test_spaces_of_other_dimensions_are_bridged(dimension: int, metric: Metric) -> None:
    x_ND = clustered(600, 12)
    y_NE = rotated(x_ND, dimension, noise=0.2)
    if metric is Metric.COSINE:
        x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
        y_NE /= np.linalg.norm(y_NE, axis=1, keepdims=True)
    bridge, quality = fit_bridge(x_ND, y_NE, source=space(OLD, 12, metric), target=space(NEW, dimension, metric))
    there, back = bridge.apply(x_ND, fingerprint=OLD), bridge.apply(y_NE, fingerprint=NEW)
    assert (there.shape, back.shape) == ((600, dimension), (600, 12))
    if metric is Metric.COSINE:
        np.testing.assert_allclose(np.linalg.norm(there, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-5)
    assert quality.own_item > 5 * quality.shuffled


def test_unrelated_spaces_are_shown_as_worthless() -> None:
    rng = np.random.default_rng(0)
    x_ND, y_NE = (rng.standard_normal((1000, 16)).astype(np.float32) for _ in range(2))
    _, quality = fit_bridge(x_ND, y_NE, source=space(OLD, 16), target=space(NEW, 16))
    assert quality.own_item < 0.1
    assert quality.overlap < 0.1


def test_wrong_pairs_and_vectors_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="needs 50 pairs"):
        fit_bridge(clustered(49, 4), clustered(49, 4), source=space(OLD, 4), target=space(NEW, 4))
    bridge, _ = fit_bridge(clustered(60, 4), clustered(60, 4), source=space(OLD, 4), target=space(NEW, 4))
    with pytest.raises(DimensionMismatchError, match="4 dimensions, got 5"):
        bridge.apply(clustered(2, 5), fingerprint=OLD)
    with pytest.raises(InvalidArgumentError, match="does not begin"):
        bridge.apply(clustered(2, 4), fingerprint="c" * 64)


def put(store: Store, *, source: str = OLD, target: str = NEW, seed: int = 0) -> tuple[str, Bridge]:
    x_ND = clustered(60, 4, seed=seed)
    bridge, quality = fit_bridge(x_ND, rotated(x_ND, 6), source=space(source, 4), target=space(target, 6))
    return save_bridge(store, bridge, quality, pair_count=60), bridge


def test_a_bridge_is_kept_and_found_from_either_side(store: Store) -> None:
    assert find_bridge(store, OLD, NEW) is None
    version, bridge = put(store)
    put(store, source="c" * 64)
    for ends in ((OLD, NEW), (NEW, OLD)):
        found = find_bridge(store, *ends)
        assert found is not None
        np.testing.assert_array_equal(found.map_DE, bridge.map_DE)
        assert (found.source, found.target, found.scale) == (bridge.source, bridge.target, bridge.scale)
    _, newer = put(store, seed=5)
    path = store.path("bridges", "latest")
    again = find_bridge(store, OLD, NEW)
    assert again is not None
    np.testing.assert_array_equal(again.map_DE, newer.map_DE)
    data = bytearray((path / "bridge.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "bridge.safetensors").write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"bridge\.safetensors"):
        open_bridge(path)
    older = find_bridge(store, OLD, NEW)
    assert older is not None
    np.testing.assert_array_equal(older.map_DE, bridge.map_DE)
    assert version == "000001"


def test_a_workspace_from_before_there_were_bridges_can_have_them(store: Store) -> None:
    (store.root / "bridges").rmdir()
    assert store.versions("bridges") == []
    assert put(store)[0] == "000001"


def test_pairs_come_from_images_that_have_not_changed(served: Store, corpus: Path) -> None:
    encoder = put_encoder(served, mean=0.1)
    old = Embeddings.open(served.path("embeddings", "1"))
    write_images(corpus, range(3), seed=9)
    (corpus / "0050.png").write_bytes(b"no image")
    built = build_bridge(served, old, encoder)
    assert (built.version, built.pair_count, built.quality.held_out_count) == ("000001", 56, 5)
    assert built.quality.own_item > 0.5
    with pytest.raises(FingerprintMismatchError, match="itself"):
        build_bridge(served, old, "000001")
    write_images(corpus, range(60), seed=9)
    with pytest.raises(InvalidArgumentError, match="no image of"):
        build_bridge(served, old, encoder)


def test_the_command_fits_a_bridge_to_the_served_snapshot(served: Store) -> None:
    put_encoder(served, mean=0.1)
    arguments = ["-w", str(served.root), "--pairs", "60"]
    result = CliRunner().invoke(refresh_commands.bridge, arguments, catch_exceptions=False)
    assert "10 nearest" in result.output
    value = json.loads(CliRunner().invoke(refresh_commands.bridge, ["latest", *arguments, "--json"]).stdout)
    assert (value["bridge"], value["pair_count"]) == ("bridges/000002", 60)
    with Snapshot.open(served.path("snapshots", "1")) as snapshot:
        assert value["source"] == snapshot.fingerprint
