"""A folder as a corpus, friendly and hostile."""

import os
from pathlib import Path

import pytest

from tests.support.corpora import fill, image_bytes, unpack
from tests.support.data import shared
from vicinal import corpus as corpus_module
from vicinal import image_files
from vicinal.corpus import Corpus, CorpusItem, Quarantined, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError


def scan(spec: str) -> tuple[list[CorpusItem], list[Quarantined]]:
    with open_corpus(spec) as corpus:
        entries = list(corpus.scan())
    return (
        [entry for entry in entries if isinstance(entry, CorpusItem)],
        [entry for entry in entries if isinstance(entry, Quarantined)],
    )


def opened(path: Path) -> Corpus:
    return open_corpus(str(path))


def test_items_come_in_a_stable_order_with_label_stamp_and_bytes(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    (tmp_path / "top.jpeg").write_bytes(image_bytes(7))
    (tmp_path / "README.txt").write_text("not an image")
    items, bad = scan(str(tmp_path))
    assert not bad
    assert [item.item_id for item in items] == [
        *(f"class0/{n:04d}.png" for n in (0, 2, 4)),
        *(f"class1/{n:04d}.png" for n in (1, 3)),
        "top.jpeg",
    ]
    assert [item.label for item in items] == ["class0"] * 3 + ["class1"] * 2 + [None]
    with opened(tmp_path) as corpus:
        assert corpus.read(items[-1]) == image_bytes(7)
    before = items[0].stamp
    (tmp_path / "class0" / "0000.png").write_bytes(image_bytes(8))
    os.utime(tmp_path / "class0" / "0000.png", ns=(0, 0))
    assert scan(str(tmp_path))[0][0].stamp != before


def test_real_photographs_are_read_from_a_folder(tmp_path: Path) -> None:
    unpack(shared("clothing-jpeg.zip"), tmp_path, every=300, count=10)
    items, bad = scan(str(tmp_path))
    assert (len(items), bad) == (10, [])
    assert items[0].label == "dress"


def test_hidden_and_junk_folders_are_passed_by(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1)
    for name in (".git", "__MACOSX", "a/.thumbnails"):
        fill(tmp_path / name, 1)
    (tmp_path / "a" / "._x.jpg").write_bytes(b"resource fork")
    assert len(scan(str(tmp_path))[0]) == 1


def test_names_that_do_not_print_or_are_not_utf8_get_printable_ids_and_are_read(tmp_path: Path) -> None:
    names = [b"r\xe9sum.png", b"line\nbreak.png", "straße.png".encode(), "gnp\u202e.png".encode(), b"\x1b[31m.png"]
    for number, name in enumerate(names):
        (tmp_path / os.fsdecode(name)).write_bytes(image_bytes(number))
    items, bad = scan(str(tmp_path))
    assert not bad
    assert {item.item_id for item in items} == {
        "r%E9sum.png", "line%0Abreak.png", "straße.png", "gnp%E2%80%AE.png", "%1B[31m.png"
    }  # fmt: skip
    with opened(tmp_path) as corpus:
        contents = {item.item_id: corpus.read(item) for item in items}
    assert contents["r%E9sum.png"] == image_bytes(0)
    assert contents["line%0Abreak.png"] == image_bytes(1)


def test_links_to_folders_are_quarantined_unless_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 2)
    root = fill(tmp_path / "root", 1)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "file.png").symlink_to(tmp_path / "elsewhere" / "class0" / "0000.png")
    items, bad = scan(str(root))
    assert [item.item_id for item in items] == ["class0/0000.png", "file.png"]
    assert [(entry.item_id, entry.reason) for entry in bad] == [("link", "LINK_NOT_FOLLOWED")]
    items, bad = scan(f"{root}?links=follow")
    assert len(items) == 4
    assert not bad
    with pytest.raises(InvalidCorpusError, match="wanted skip or follow"):
        open_corpus(f"{root}?links=yes")


def test_a_loop_and_a_thicket_of_links_end(tmp_path: Path) -> None:
    root = fill(tmp_path / "root", 1)
    (root / "loop").symlink_to(root)
    (root / "dangling.png").symlink_to(tmp_path / "gone.png")
    (root / "self.png").symlink_to(root / "self.png")
    level = root
    for _ in range(30):  # each level has two links to the next: 2 ** 30 paths
        deeper = level / "next"
        deeper.mkdir()
        (level / "again").symlink_to(deeper)
        level = deeper
    fill(level, 1)
    items, bad = scan(str(root))
    assert len(items) == 2
    assert sorted({entry.reason for entry in bad}) == ["LINK_NOT_FOLLOWED", "UNREADABLE"]
    items, bad = scan(f"{root}?links=follow")
    assert len(items) == 2


def test_a_pipe_named_like_an_image_does_not_block(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.jpg")
    items, bad = scan(str(tmp_path))
    assert (len(items), [entry.reason for entry in bad]) == (1, ["NOT_A_FILE"])
    with opened(tmp_path) as corpus:
        (tmp_path / "class0" / "0000.png").unlink()
        os.mkfifo(tmp_path / "class0" / "0000.png")
        with pytest.raises(InvalidImageError, match="no longer a regular file"):
            corpus.read(items[0])


def test_a_file_that_went_away_says_so_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with opened(tmp_path) as corpus:
        item = next(iter(corpus))
        (tmp_path / item.path).unlink()
        with pytest.raises(InvalidImageError, match="No such file"):
            corpus.read(item)


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 2)
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate(corpus_module.MAX_ITEM_BYTES + 1)
    items, bad = scan(str(tmp_path))
    assert [(entry.item_id, entry.reason) for entry in bad] == [("huge.jpg", "TOO_LARGE")]
    with opened(tmp_path) as corpus:
        monkeypatch.setattr(image_files, "MAX_ITEM_BYTES", 10)
        with pytest.raises(InvalidImageError, match="at most 10"):
            corpus.read(items[0])


def test_very_deep_folders_do_not_exhaust_anything(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=place)
        deeper = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = deeper
    os.close(place)
    items, bad = scan(str(tmp_path))
    assert (len(items), [entry.reason for entry in bad]) == (1, ["TOO_DEEP"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_an_error_or_a_quarantine_entry(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (tmp_path / "class1").chmod(0)
    _, bad = scan(str(tmp_path))
    (tmp_path / "class1").chmod(0o700)
    assert [entry.reason for entry in bad] == ["UNREADABLE"]


@pytest.mark.slow
def test_very_many_links_are_scanned_one_by_one(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / "links").mkdir()
    for number in range(20_000):
        (tmp_path / "links" / f"{number}.png").symlink_to("../class0/0000.png")
    with opened(tmp_path) as corpus:
        assert sum(1 for _ in corpus) == 20_001
