"""WebDataset archives as a corpus."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.support.corpora import fill, image_bytes
from vicinal.corpus import CorpusItem, Quarantined, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError


def write(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(start: int, count: int) -> list[tuple[str, bytes]]:
    members = []
    for n in range(start, start + count):
        notes = {"width": 16, "score": n / 2, "tags": ["a"], "label": f"json{n}"}
        members += [
            (f"{n:05d}.png", image_bytes(n)),
            (f"{n:05d}.json", json.dumps(notes).encode()),
            (f"{n:05d}.txt", f" a caption {n}\n".encode()),
        ]
        if n % 2:
            members.append((f"{n:05d}.cls", str(n % 10).encode()))
    return members


def scan(spec: str) -> tuple[list[CorpusItem], dict[str, str], list[bytes]]:
    with open_corpus(spec) as corpus:
        entries = list(corpus.scan())
        items = [entry for entry in entries if isinstance(entry, CorpusItem)]
        contents = [corpus.read(item) for item in items]
    return items, {entry.item_id: entry.reason for entry in entries if isinstance(entry, Quarantined)}, contents


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz")])
def test_a_folder_of_archives_gives_samples_with_labels_and_metadata(tmp_path: Path, suffix: str, mode: str) -> None:
    write(tmp_path / f"000000{suffix}", samples(0, 3), mode)
    write(tmp_path / f"000001{suffix}", samples(3, 2), mode)
    items, bad, contents = scan(str(tmp_path))
    assert not bad
    assert [item.item_id for item in items] == [
        f"00000{n // 3}{suffix}/{n:05d}" for n in range(5)
    ]  # fmt: skip
    assert contents == [image_bytes(n) for n in range(5)]
    assert [item.label for item in items] == ["json0", "1", "json2", "3", "json4"]
    assert items[2].metadata == {"width": 16, "score": 1.0, "tags": '["a"]', "caption": "a caption 2"}
    assert items[1].metadata["label"] == "json1"
    assert items[1].path == f"000000{suffix}/00001.png"


def test_one_archive_is_read_as_samples_when_that_is_asked_for(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar", [("x/1.left.png", image_bytes(0)), ("x/1.seg.json", b"{}"), ("x/2.png", image_bytes(1))]
    )
    items, _, _ = scan(f"webdataset:{path}")
    assert [(item.item_id, item.path) for item in items] == [("x/2", "x/2.png")]
    items, _, _ = scan(str(path))
    assert [item.item_id for item in items] == ["x/1.left.png", "x/2.png"]


def test_notes_that_are_wrong_and_names_that_climb_out_are_quarantined(tmp_path: Path) -> None:
    good = image_bytes(1)
    members = [
        ("a.png", good), ("a.json", b"[1]"),
        ("b.png", good), ("b.json", b"{"),
        ("c.png", good), ("c.txt", b"\xff"),
        ("d.png", good), ("d.json", bytes((1 << 20) + 1)),
        ("../e.png", good),
        ("f.txt", b"no image"),
        ("g.png", good),
    ]  # fmt: skip
    write(tmp_path / "0.tar", members)
    items, bad, _ = scan(str(tmp_path))
    assert [item.item_id for item in items] == ["0.tar/g"]
    assert bad == {
        **dict.fromkeys(("0.tar/a", "0.tar/b", "0.tar/c", "0.tar/d"), "BAD_NOTES"),
        "../e.png": "UNSAFE_NAME",
    }


def test_a_folder_with_images_beside_an_archive_stays_a_folder(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    write(tmp_path / "backup.tar", samples(0, 1))
    items, _, _ = scan(str(tmp_path))
    assert [item.item_id for item in items] == ["class0/0000.png", "class1/0001.png"]


def test_under_chooses_an_archive_and_a_missing_archive_is_named(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / f"{n}.tar", samples(n, 1))
    items, _, _ = scan(f"{tmp_path}?under=1.tar")
    assert [item.item_id for item in items] == ["1.tar/00001"]
    (tmp_path / "1.tar").unlink()
    with open_corpus(str(tmp_path)) as corpus, pytest.raises(InvalidImageError, match=r"1\.tar, which is gone"):
        corpus.read(items[0])
    (tmp_path / "0.tar").unlink()
    with pytest.raises(InvalidCorpusError, match="no tar archives"):
        open_corpus(f"webdataset:{tmp_path}")


def test_a_broken_archive_among_them_is_named(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", samples(0, 1))
    (tmp_path / "1.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(InvalidCorpusError, match=r"1\.tar is cut short or damaged"):
        open_corpus(str(tmp_path))
