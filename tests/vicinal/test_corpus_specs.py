"""Specs of corpora: how they are taken apart, and what is said when one is wrong."""

from pathlib import Path

import pytest

from tests.support.corpora import fill
from vicinal.corpus import Quarantined, open_corpora, open_corpus, parse_spec
from vicinal.errors import InvalidCorpusError


def ids(spec: str) -> list[str]:
    with open_corpus(spec) as corpus:
        return [item.item_id for item in corpus]


def test_a_wrong_path_is_named() -> None:
    with pytest.raises(InvalidCorpusError, match=r"nothing at '/no/such/folder'; check the path"):
        open_corpus("/no/such/folder")


@pytest.mark.parametrize("spec", ["", "name=", "?limit=3", "bad\0path"])
def test_an_empty_or_impossible_spec_is_refused(spec: str) -> None:
    with pytest.raises(InvalidCorpusError):
        open_corpus(spec)


def test_an_empty_folder_and_one_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCorpusError, match="has no images"):
        open_corpus(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_bytes(b"x")
    with pytest.raises(InvalidCorpusError, match=r"wanted files such as .jpg"):
        open_corpus(str(tmp_path))


def test_one_image_is_no_corpus(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with pytest.raises(InvalidCorpusError, match=f"name the folder it is in: {tmp_path}/class0"):
        open_corpus(str(tmp_path / "class0" / "0000.png"))


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidCorpusError, match="no reader knows this"):
        open_corpus(str(tmp_path / "notes.txt"))


def test_an_unknown_kind_or_option_suggests_a_known_one(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with pytest.raises(InvalidCorpusError, match="did you mean 'folder'"):
        open_corpus(f"foldr:{tmp_path}")
    with pytest.raises(InvalidCorpusError, match="did you mean 'limit'"):
        open_corpus(f"{tmp_path}?limits=3")
    with pytest.raises(InvalidCorpusError, match="options must be like"):
        open_corpus(f"{tmp_path}?limit")


@pytest.mark.parametrize(
    "option", ["limit=0", "limit=-1", "offset=x", "stride=0", "limit=99999999999999999999", "limit=²"]
)
def test_an_option_that_is_no_whole_number_is_refused(tmp_path: Path, option: str) -> None:
    fill(tmp_path, 2)
    with pytest.raises(InvalidCorpusError, match="wanted a whole number"):
        open_corpus(f"{tmp_path}?{option}")


def test_options_select_in_the_order_under_offset_stride_limit(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    everything = ids(str(tmp_path))
    assert ids(f"{tmp_path}?limit=3") == everything[:3]
    assert ids(f"{tmp_path}?offset=5&limit=2") == everything[5:7]
    assert ids(f"{tmp_path}?stride=4&offset=1&limit=3") == everything[1:13:4]
    assert ids(f"{tmp_path}?under=class1&limit=2") == ["class1/0001.png", "class1/0003.png"]
    with pytest.raises(InvalidCorpusError, match="that the options select"):
        open_corpus(f"{tmp_path}?under=class7")


def test_a_name_goes_before_the_ids_and_is_the_source(tmp_path: Path) -> None:
    fill(tmp_path / "images", 2)
    with open_corpus(f"shoes={tmp_path}/images") as corpus:
        assert corpus.source == "shoes"
        assert [item.item_id for item in corpus] == ["shoes/class0/0000.png", "shoes/class1/0001.png"]
        assert next(iter(corpus)).path == "class0/0000.png"


def test_a_path_that_exists_is_taken_as_it_stands(tmp_path: Path) -> None:
    fill(tmp_path / "a=b?limit=1", 2)
    spec = parse_spec(str(tmp_path / "a=b?limit=1"))
    assert (spec.name, spec.options) == ("", {})
    assert len(ids(str(tmp_path / "a=b?limit=1"))) == 2


def test_an_id_that_would_be_too_long_is_quarantined(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
    fill(folder, 1)
    fill(tmp_path, 1)
    with open_corpus(str(tmp_path)) as corpus:
        bad = [entry for entry in corpus.scan() if isinstance(entry, Quarantined)]
    assert [entry.reason for entry in bad] == ["ID_TOO_LONG"]


def test_several_corpora_are_all_opened_or_none(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", 1), fill(tmp_path / "two", 1)
    assert [corpus.source for corpus in open_corpora([str(one), str(two)])] == ["one", "two"]
    with pytest.raises(InvalidCorpusError, match="no corpus was named"):
        open_corpora([])
    with pytest.raises(InvalidCorpusError, match="is named twice"):
        open_corpora([str(one), str(one)])
    with pytest.raises(InvalidCorpusError, match="nothing at"):
        open_corpora([str(one), "/no/such/folder"])
