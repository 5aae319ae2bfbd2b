"""Manifests: every kind of damage is refused with the file named."""

import json

import pytest

from vicinal.artifact import MANIFEST, canonical_digest, read_manifest, storage_guard, write_manifest
from vicinal.errors import ArtifactNotFoundError, CorruptArtifactError, StorageError


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "artifact"
    (path / "sub").mkdir(parents=True)
    (path / "a.bin").write_bytes(bytes(range(256)) * 64)
    (path / "sub" / "b.txt").write_text("b")
    write_manifest(path, kind="thing", version=2, body={"answer": 42})
    return path


def test_manifest_survives_the_round_trip(artifact):
    manifest = read_manifest(artifact, kind="thing", version=2)
    assert manifest.body == {"answer": 42}
    assert set(manifest.files) == {"a.bin", "sub/b.txt"}


@pytest.mark.parametrize("position", [0, 8000, 16383])
def test_one_flipped_bit_is_refused_unless_verification_is_off(artifact, position):
    data = bytearray((artifact / "a.bin").read_bytes())
    data[position] ^= 1
    (artifact / "a.bin").write_bytes(data)
    with pytest.raises(CorruptArtifactError, match=r"a\.bin has changed") as caught:
        read_manifest(artifact, kind="thing", version=2)
    assert caught.value.metadata["file"] == "a.bin"
    read_manifest(artifact, kind="thing", version=2, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_and_missing_files_are_always_refused(artifact, verify):
    (artifact / "a.bin").write_bytes(b"short")
    with pytest.raises(CorruptArtifactError, match=r"a\.bin has 5 bytes"):
        read_manifest(artifact, kind="thing", version=2, verify=verify)
    (artifact / "a.bin").unlink()
    with pytest.raises(CorruptArtifactError, match=r"a\.bin is missing"):
        read_manifest(artifact, kind="thing", version=2, verify=verify)


def test_another_kind_version_or_text_is_refused(artifact, tmp_path):
    with pytest.raises(CorruptArtifactError, match=r"is a vicinal\.thing, wanted vicinal\.other"):
        read_manifest(artifact, kind="other", version=2)
    with pytest.raises(CorruptArtifactError, match="this build reads 1 to 1"):
        read_manifest(artifact, kind="thing", version=1)
    for text in ("", "[]", "{}", '{"format": 1}', "\x00"):
        (artifact / MANIFEST).write_text(text)
        with pytest.raises(CorruptArtifactError, match="is not a manifest"):
            read_manifest(artifact, kind="thing", version=2)
    with pytest.raises(ArtifactNotFoundError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path / "nowhere", kind="thing", version=2)


def test_format_version_of_another_type_is_refused(artifact):
    raw = json.loads((artifact / MANIFEST).read_text())
    raw["format_version"] = "2"
    (artifact / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(CorruptArtifactError, match="format_version 2"):
        read_manifest(artifact, kind="thing", version=2)


def test_manifest_that_is_a_directory_is_one_clear_error(artifact):
    (artifact / MANIFEST).unlink()
    (artifact / MANIFEST).mkdir()
    with pytest.raises(ArtifactNotFoundError, match="cannot read"):
        read_manifest(artifact, kind="thing", version=2)


def test_storage_guard_names_the_path(tmp_path):
    with pytest.raises(StorageError, match="nowhere"), storage_guard(tmp_path):
        (tmp_path / "nowhere" / "x").write_text("x")


def test_canonical_digest_ignores_the_order_of_keys():
    assert canonical_digest({"a": 1, "b": [1, 2]}) == canonical_digest({"b": [1, 2], "a": 1})
    assert canonical_digest([1, 2]) != canonical_digest([2, 1])
