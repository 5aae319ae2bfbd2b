"""The embeddings artifact."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from vicinal.corpus import Quarantined
from vicinal.embeddings import Embeddings, EmbeddingsInfo, VectorWriter, write_embeddings
from vicinal.errors import ArtifactNotFoundError, CorruptArtifactError, DimensionMismatchError, InvalidVectorError
from vicinal.items import Item
from vicinal.types import F32Array, Metric

RNG = np.random.default_rng(0)
X_ND: F32Array = RNG.normal(size=(10, 6)).astype(np.float32)
INFO = EmbeddingsInfo(dimension=6, metric=Metric.L2)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def rows(count: int) -> Iterator[Item]:
    for n in range(count):
        label = "odd" if n % 2 else None
        yield Item(item_id=f"i{n}", digest="0" * 64, source="s", path="p", added_at=NOW, label=label)


def test_what_was_written_is_opened_memory_mapped(tmp_path: Path) -> None:
    bad = [Quarantined(item_id="x.jpg", reason="INVALID_IMAGE", message="why")] * 2
    info = EmbeddingsInfo(
        dimension=6, metric=Metric.L2, fingerprint="f" * 64, encoder="000003", corpora=("a", "b"), details={"more": 1}
    )
    write_embeddings(tmp_path, iter([X_ND[:3], X_ND[3:3], X_ND[3:]]), rows(10), info=info, quarantine=bad)

    found = Embeddings.open(tmp_path)

    assert isinstance(found.vectors_ND, np.memmap)
    assert np.array_equal(found.vectors_ND, X_ND)
    assert (found.fingerprint, found.encoder, found.corpora, found.metric) == ("f" * 64, "000003", ("a", "b"), "l2")
    assert found.manifest.body["more"] == 1
    assert found.manifest.body["quarantine"] == {"INVALID_IMAGE": 2}
    assert list(found.quarantine()) == bad
    assert found.labels().tolist() == [None, "odd"] * 5
    assert found.version == tmp_path.name


def test_vectors_from_elsewhere_get_a_fingerprint_from_their_content(tmp_path: Path) -> None:
    prints = []
    for n, x_ND in enumerate((X_ND, X_ND, X_ND + 1)):
        (tmp_path / str(n)).mkdir()
        write_embeddings(tmp_path / str(n), x_ND, rows(10), info=INFO)
        prints.append(Embeddings.open(tmp_path / str(n)).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_vectors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DimensionMismatchError, match=r"\(rows, 6\)"):
        write_embeddings(tmp_path, X_ND[:, :5], rows(10), info=INFO)
    with pytest.raises(InvalidVectorError, match="10 vectors for 9 items"):
        write_embeddings(tmp_path, X_ND, rows(9), info=INFO)
    wrong = X_ND.copy()
    wrong[7, 2] = np.nan
    with pytest.raises(InvalidVectorError, match="vector 7"):
        write_embeddings(tmp_path, [wrong[:4], wrong[4:]], rows(10), info=INFO)
    assert not (tmp_path / "manifest.json").exists()


def test_rows_can_be_read_back_while_writing(tmp_path: Path) -> None:
    writer = VectorWriter(tmp_path, dimension=6)
    assert writer.read_back(np.zeros(0, np.int64)).shape == (0, 6)
    writer.append(X_ND[:4])
    assert np.array_equal(writer.read_back(np.array([3, 0])), X_ND[[3, 0]])
    writer.append(X_ND[4:])
    assert np.array_equal(writer.read_back(np.array([9])), X_ND[[9]])
    writer.close()
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), X_ND)


def test_no_embeddings_and_damaged_embeddings_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFoundError):
        Embeddings.open(tmp_path / "none")
    write_embeddings(tmp_path, X_ND, rows(10), info=INFO)
    content = bytearray((tmp_path / "vectors.npy").read_bytes())
    content[-3] ^= 1
    (tmp_path / "vectors.npy").write_bytes(content)
    with pytest.raises(CorruptArtifactError, match=r"vectors\.npy"):
        Embeddings.open(tmp_path)
    Embeddings.open(tmp_path, verify=False)


@pytest.mark.parametrize(("key", "value"), [("count", 11), ("metric", "nearness"), ("dimension", 5), ("corpora", None)])
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, key: str, value: object) -> None:
    write_embeddings(tmp_path, X_ND, rows(10), info=INFO)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["body"][key] = value
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError):
        Embeddings.open(tmp_path)
