"""Zip and tar archives as corpora, whole, broken and hostile."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.corpora import image_bytes
from tests.support.data import shared
from vicinal.corpora import zip as zip_reader
from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, Quarantined, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError

MEMBERS = {f"train/cat/{n}.jpg": image_bytes(n, kind="JPEG") for n in range(5)}


def make_zip(path: Path, members: dict[str, bytes] = MEMBERS, compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def make_tar(path: Path, members: dict[str, bytes] = MEMBERS, mode: str = "w") -> str:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def scan(spec: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Returns the contents and the reasons of what was quarantined, by id."""
    with open_corpus(spec) as corpus:
        entries = list(corpus.scan())
        items = {entry.item_id: corpus.read(entry) for entry in entries if isinstance(entry, CorpusItem)}
    return items, {entry.item_id: entry.reason for entry in entries if isinstance(entry, Quarantined)}


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")],
)
def test_tar_archives_of_every_kind_are_read_in_place(tmp_path: Path, suffix: str, mode: str) -> None:
    spec = make_tar(tmp_path / f"a{suffix}", mode=mode)
    assert scan(spec) == (MEMBERS, {})
    with open_corpus(spec) as corpus:
        assert corpus.sequential == (mode != "w")
        items = list(corpus)
        assert items[0].label == "cat"
        # Going back in a compressed archive works too.
        assert [corpus.read(item) for item in reversed(items)] == list(reversed(MEMBERS.values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_archives_of_every_kind_are_read_in_place(tmp_path: Path, compression: int) -> None:
    assert scan(make_zip(tmp_path / "a.zip", compression=compression)) == (MEMBERS, {})


def test_a_real_archive_of_photographs_is_read(tmp_path: Path) -> None:
    items, bad = scan(f"{shared('clothing-jpeg.zip')}?under=validation&stride=40")
    assert not bad
    assert len(items) > 5
    assert all(content.startswith(b"\xff\xd8") for content in items.values())


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_climb_out_are_quarantined_and_nothing_is_written(tmp_path: Path, make) -> None:
    good = image_bytes(1)
    members = {"../../evil.jpg": good, "a/../../b.jpg": good, "/etc/abs.jpg": good, "./dot.jpg": good, "nl\n.jpg": good}
    (tmp_path / "in").mkdir()
    items, bad = scan(make(tmp_path / "in" / ("a.zip" if make is make_zip else "a.tar"), members))
    assert set(items) == {"etc/abs.jpg", "dot.jpg", "nl%0A.jpg"}
    assert bad == {"../../evil.jpg": "UNSAFE_NAME", "a/../../b.jpg": "UNSAFE_NAME"}
    assert [path.name for path in tmp_path.rglob("*.jpg")] == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no archive, but long enough to be looked at " * 20)
    with pytest.raises(InvalidCorpusError, match=r"a\.(zip|tar)"):
        open_corpus(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_empty_file_is_no_archive(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InvalidCorpusError):
        open_corpus(str(tmp_path / name))


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_a_tar_archive_cut_short_is_an_error_not_a_smaller_corpus(tmp_path: Path, name: str, mode: str) -> None:
    members = {f"{n}.jpg": os.urandom(3000) for n in range(20)}
    path = Path(make_tar(tmp_path / name, members, mode))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with open_corpus(str(path)) as corpus, pytest.raises(InvalidCorpusError, match="cut short or damaged after"):
        list(corpus.scan())


def test_a_zip_archive_cut_short_is_refused(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "a.zip"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InvalidCorpusError, match="not a whole zip archive"):
        open_corpus(str(path))


def test_a_damaged_zip_member_is_an_image_error(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "a.zip", compression=zipfile.ZIP_STORED))
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    with open_corpus(str(path)) as corpus, pytest.raises(InvalidImageError, match="damaged in its archive"):
        corpus.read(next(iter(corpus)))


def test_a_zip_bomb_is_quarantined_by_its_header_and_bounded_when_the_header_lies(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.jpg", image_bytes(1))
        with archive.open("bomb.jpg", "w") as stream:
            for _ in range(MAX_ITEM_BYTES // (1 << 20) + 1):
                stream.write(bytes(1 << 20))
    items, bad = scan(str(path))
    assert set(items) == {"good.jpg"}
    assert bad == {"bomb.jpg": "TOO_LARGE"}
    with open_corpus(str(path)) as corpus:
        item = next(iter(corpus))
        monkeypatch.setattr(zip_reader, "MAX_ITEM_BYTES", 10)
        with pytest.raises(InvalidImageError, match="more than 10 bytes"):
            corpus.read(item)


def test_an_encrypted_zip_member_is_quarantined(tmp_path: Path) -> None:
    path = Path(make_zip(tmp_path / "a.zip", {"a.jpg": b"x" * 50, "b.jpg": b"y" * 50}))
    content = bytearray(path.read_bytes())
    local, central = content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02")
    content[local + 6] |= 1
    content[central + 8] |= 1
    path.write_bytes(content)
    items, bad = scan(str(path))
    assert (list(items), bad) == (["b.jpg"], {"a.jpg": "ENCRYPTED"})


def test_a_zip_item_that_is_no_longer_there_says_so(tmp_path: Path) -> None:
    with open_corpus(make_zip(tmp_path / "a.zip")) as corpus:
        item = next(iter(corpus))
    changed = open_corpus(make_zip(tmp_path / "a.zip", {"longer/name.jpg": b"x"}))
    with changed, pytest.raises(InvalidImageError, match="no longer in its archive"):
        changed.read(item)


def test_links_devices_and_sparse_files_in_a_tar_are_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        good = tarfile.TarInfo("good.jpg")
        good.size = 3
        archive.addfile(good, io.BytesIO(b"abc"))
    items, bad = scan(str(path))
    assert items == {"good.jpg": b"abc"}
    assert set(bad.values()) == {"NOT_A_FILE"}
    assert len(bad) == 4


def test_a_tar_header_of_a_hostile_size_is_not_read_into_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    with gzip.open(tmp_path / "a.tar.gz", "wb") as stream:
        stream.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    with pytest.raises(InvalidCorpusError, match="cut short or damaged"):
        open_corpus(str(tmp_path / "a.tar.gz"))


def test_a_tar_member_that_claims_more_than_is_allowed_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        for name, size in (("big.jpg", MAX_ITEM_BYTES + 1), ("good.jpg", 3)):
            member = tarfile.TarInfo(name)
            member.size = size
            stream.write(member.tobuf())
            stream.seek(-(-size // 512) * 512, os.SEEK_CUR)
        stream.write(bytes(1024))
    items, bad = scan(str(path))
    assert list(items) == ["good.jpg"]
    assert bad == {"big.jpg": "TOO_LARGE"}


def test_two_members_of_one_name_are_both_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for content in (b"one", b"two"):
            member = tarfile.TarInfo("a.jpg")
            member.size = 3
            archive.addfile(member, io.BytesIO(content))
    with open_corpus(str(path)) as corpus:
        assert [corpus.read(item) for item in corpus] == [b"one", b"two"]


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_processes_that_are_forked_from_one_reader_do_not_disturb_each_other(tmp_path: Path, make) -> None:
    members = {f"{n:02d}.jpg": os.urandom(50_000) for n in range(60)}
    with open_corpus(make(tmp_path / ("a.zip" if make is make_zip else "a.tar"), members)) as corpus:
        items = list(corpus)
        children = []
        for _ in range(2):
            process = os.fork()
            if process == 0:
                same = all(corpus.read(item) == members[item.item_id] for item in items)
                os._exit(0 if same else 1)
            children.append(process)
        assert all(corpus.read(item) == members[item.item_id] for item in items)
        assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in children] == [0, 0]
