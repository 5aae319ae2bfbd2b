"""A list of corpora, read as one."""

import zipfile
from pathlib import Path

import pytest

from vicinal.corpus import Quarantined, open_corpus
from vicinal.errors import InvalidCorpusError


def write(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(name.encode())


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    write(tmp_path / "one", "a.png", "b.png")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("c.png", b"c.png")
        archive.writestr("../d.png", b"d.png")
    path = tmp_path / "all.corpora"
    path.write_text(f"# two corpora\n\n{tmp_path / 'one'}?limit=1\nmore={tmp_path / 'two.zip'}\n", encoding="utf-8")
    return path


def test_its_items_are_those_of_the_corpora(listed: Path) -> None:
    with open_corpus(str(listed)) as corpus:
        items = list(corpus)
        assert [item.item_id for item in items] == ["a.png", "more/c.png"]
        assert [corpus.read(item) for item in items] == [b"a.png", b"c.png"]
        assert [entry.reason for entry in corpus.scan() if isinstance(entry, Quarantined)] == ["UNSAFE_NAME"]
    with open_corpus(f"n=list:{listed}?offset=1") as corpus:
        assert [item.item_id for item in corpus] == ["n/more/c.png"]


def test_a_wrong_list_is_refused(listed: Path, tmp_path: Path) -> None:
    for text, match in ((str(listed), "itself a list"), ("", "no corpus was named"), ("/nowhere/at/all", "nothing at")):
        (tmp_path / "wrong.corpora").write_text(text, encoding="utf-8")
        with pytest.raises(InvalidCorpusError, match=match):
            open_corpus(str(tmp_path / "wrong.corpora"))
    (tmp_path / "wrong.corpora").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidCorpusError, match="cannot be read"):
        open_corpus(str(tmp_path / "wrong.corpora"))
