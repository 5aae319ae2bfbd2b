"""The pipeline on folders and archives of JPEG files, and what it does with bad input at each step."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Jpegs, Shell
from vicinal.client import Classification, Client, SupportExample
from vicinal.errors import DimensionMismatchError, InvalidArgumentError, InvalidImageError, ItemNotFoundError
from vicinal.store import Store

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


def test_folder_and_archive_are_searched_and_classified(served: Shell, address: str, jpegs: Jpegs) -> None:
    query = next(iter(sorted((jpegs.folder / "cat").iterdir())))
    with Client(address) as client:
        found = client.search(query.read_bytes(), neighbor_count=5)
        assert found.item_ids[0] == f"photos/cat/{query.name}"
        assert found.scores[0] == pytest.approx(1, abs=1e-4)
        assert len(found.snapshot.fingerprint) == 64
        by_id = client.search(f"photos/cat/{query.name}", neighbor_count=5)
        assert f"photos/cat/{query.name}" not in by_id.item_ids
        everything = client.search(query.read_bytes(), neighbor_count=550)
        assert any(item_id.startswith("more/") for item_id in everything.item_ids)
        assert len(set(everything.item_ids)) == 550
        support = [
            SupportExample(query=f"photos/{label}/{path.name}", label=label)
            for label in ("cat", "ship")
            for path in sorted((jpegs.folder / label).iterdir())[:10]
        ]
        answer = client.classify([query.read_bytes()], support=support)
        assert isinstance(answer.results[0], Classification)
        assert answer.results[0].label == "cat"
        assert answer.snapshot == found.snapshot


def test_refresh_takes_in_new_images_and_the_running_server_follows(
    jpegs: Jpegs, tmp_path: Path, served: Shell
) -> None:
    shell = Shell(workspace=tmp_path / "workspace")
    shutil.copytree(served.workspace, shell.workspace)
    serving = shell.serve("--processes", "1")
    with Client(next(serving)) as client:
        new = next(iter(sorted((jpegs.new / "frog").iterdir())))
        before = client.search(new.read_bytes(), neighbor_count=1)
        assert before.snapshot.name == "snapshots/000001"
        report = shell.json("refresh", f"new={jpegs.new}")
        assert report["new_count"] == 50
        after = before
        for _ in range(200):
            after = client.search(new.read_bytes(), neighbor_count=1)
            if after.snapshot.name != before.snapshot.name:
                break
        assert after.snapshot.name == report["snapshot"]
        assert after.item_ids[0] == f"new/frog/{new.name}"
        assert client.search(new.read_bytes(), neighbor_count=1000).item_ids.__len__() == 600
        shell.json("rollback")
    for _ in serving:
        pass
    assert Store(shell.workspace).active().snapshot == "000001"


def test_wrong_requests_are_one_clear_error_each(address: str) -> None:
    with Client(address) as client:
        dimension = client.get_active_snapshot().dimension
        with pytest.raises(DimensionMismatchError, match=f"dimension 3.*{dimension}"):
            client.search(np.ones(3, np.float32))
        with pytest.raises(ItemNotFoundError, match=r"no-such\.jpg"):
            client.search("no-such.jpg")
        for count in (0, -1, 10_000_000):
            with pytest.raises(InvalidArgumentError, match="neighbor_count"):
                client.search(np.ones(dimension, np.float32), neighbor_count=count)
        for content in (b"", b"plain text, not an image", png_header(30_000, 30_000)):
            with pytest.raises(InvalidImageError):
                client.search(content)


def test_wrong_paths_are_one_clear_error_each(served: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is nothing at" in served.refused("embed", tmp_path / "nowhere")
    assert "no images" in served.refused("embed", tmp_path / "empty")
    assert "not a Vicinal workspace" in served.refused("build", "--workspace", tmp_path / "nowhere", workspace=False)
    assert "did you mean 'hnsw'" in served.refused("build", "--kind", "hnws")
    assert "snapshots/000099" in served.refused("publish", "99")
    assert Store(served.workspace).active().snapshot == "000001"


def test_bad_files_are_quarantined_with_the_reason_and_twins_are_embedded_once(
    served: Shell, jpegs: Jpegs, tmp_path: Path
) -> None:
    good = sorted((jpegs.new / "dog").iterdir())
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(good[0], folder / "good.jpg")
    shutil.copy(good[0], folder / "twin.jpg")
    (folder / "truncated.jpg").write_bytes(good[1].read_bytes()[:400])
    (folder / "text.jpg").write_text("this is not an image")
    (folder / "huge.png").write_bytes(png_header(30_000, 30_000))
    report = served.json("embed", folder)
    assert (report["count"], report["quarantined_count"]) == (2, 3)
    assert report["new_count"] + report["reused_count"] == 2
    place = Store(served.workspace).path("embeddings", report["embeddings"])
    lines = [json.loads(line) for line in (place / "quarantine.jsonl").read_text().splitlines()]
    assert {line["item_id"] for line in lines} == {"truncated.jpg", "text.jpg", "huge.png"}
    assert all(line["reason"] and line["message"] for line in lines)
    x_ND = np.load(place / "vectors.npy")
    assert np.array_equal(x_ND[0], x_ND[1])


def test_one_flipped_byte_is_refused_and_what_is_served_stays(served: Shell, tmp_path: Path) -> None:
    shell = Shell(workspace=tmp_path / "workspace")
    shutil.copytree(served.workspace, shell.workspace)
    shell.json("build", "--kind", "flat", "--embeddings", "1")
    victim = next(iter(sorted((shell.workspace / "snapshots" / "000002").rglob("vectors.npy"))))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0x10
    victim.unlink()  # the vectors are shared by hard link with the embeddings, which stay whole
    victim.write_bytes(data)
    assert "vectors.npy has changed" in shell.refused("publish", "2")
    assert Store(shell.workspace).active().snapshot == "000001"


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds little: what it says must be judged before it is decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
