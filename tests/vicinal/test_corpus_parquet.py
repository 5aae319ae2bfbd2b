"""Parquet files as a corpus."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.embed import EmbedOptions, embed
from tests.support.corpora import add_encoder, image_bytes
from vicinal.corpora import parquet as reader
from vicinal.corpus import CorpusItem, open_corpus
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.store import Store


def write(path: Path, columns: dict[str, Any], *, group: int = 4) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def scan(spec: str) -> tuple[list[CorpusItem], list[bytes]]:
    with open_corpus(spec) as corpus:
        items = list(corpus)
        return items, [corpus.read(item) for item in items]


def test_a_file_in_the_form_of_hugging_face_gives_items_labels_and_typed_metadata(tmp_path: Path) -> None:
    images = [{"bytes": image_bytes(n), "path": f"{n}.png"} for n in range(10)]
    path = write(
        tmp_path / "train-0.parquet",
        {
            "image": images,
            "label": list(range(10)),
            "price": [float(n) if n else float("nan") for n in range(10)],
            "at": [datetime(2026, 1, 1)] * 10,  # noqa: DTZ001 - as such files have it
            "day": [date(2026, 1, 2)] * 10,
            "big": pa.array([2**63 + 1] * 10, pa.uint64()),
            "tags": [["x"]] * 10,
            "name": ["n"] * 10,
        },
    )
    items, contents = scan(str(path))
    assert [item.item_id for item in items] == [f"train-0/{n:09d}" for n in range(10)]
    assert contents == [image_bytes(n) for n in range(10)]
    assert items[3].label == "3"
    assert items[0].metadata["price"] is None
    assert items[3].metadata == {
        "price": 3.0, "at": datetime(2026, 1, 1, tzinfo=UTC), "day": datetime(2026, 1, 2, tzinfo=UTC),
        "big": str(2**63 + 1), "name": "n",
    }  # fmt: skip


def test_a_folder_of_files_with_ids_and_named_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_READ_ROWS", 2)
    for part in range(2):
        rows = range(part * 7, part * 7 + 7)
        columns = {"jpg": [image_bytes(n) for n in rows], "sku": [f"S{n}" for n in rows], "kind": ["a\nb"] * 7}
        write(tmp_path / f"part{part}.parquet", columns)
    items, contents = scan(f"{tmp_path}?image=jpg&id=sku&label=kind")
    assert [item.item_id for item in items] == [f"S{n}" for n in range(14)]
    assert contents == [image_bytes(n) for n in range(14)]
    assert items[0].label == "a\nb"
    with open_corpus(f"{tmp_path}?image=jpg") as corpus:
        items = list(corpus)
        assert corpus.sequential
        # Out of order is slow, and right.
        assert [corpus.read(items[n]) for n in (13, 0, 5, 4, 4)] == [image_bytes(n) for n in (13, 0, 5, 4, 4)]


def test_a_file_of_images_alone_and_under_choose(tmp_path: Path) -> None:
    for part in range(2):
        write(tmp_path / f"p{part}.parquet", {"content": [image_bytes(part * 2 + n) for n in range(2)]})
    items, contents = scan(f"{tmp_path}?under=p1")
    assert [item.item_id for item in items] == ["p1/000000000", "p1/000000001"]
    assert contents == [image_bytes(2), image_bytes(3)]


def test_a_parquet_corpus_is_embedded_and_empty_rows_are_quarantined(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    content = [None if n == 3 else image_bytes(n % 20) for n in range(30)]
    path = write(
        tmp_path / "a.parquet", {"image": pa.array(content, pa.binary()), "item_id": [f"i{n}" for n in range(30)]}
    )
    report = embed(store, [str(path)], options=EmbedOptions(shard_size=7, workers=3))
    assert (report.count, report.unique_count, report.quarantined_count) == (29, 20, 1)


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", {"image": [image_bytes(1)], "text": ["x"]})
    with pytest.raises(InvalidCorpusError, match="did you mean 'image'"):
        open_corpus(f"{path}?image=imag")
    with pytest.raises(InvalidCorpusError, match="is string, wanted binary"):
        open_corpus(f"{path}?image=text")
    with open_corpus(str(path)) as corpus:
        (item,) = corpus
        monkeypatch.setattr(reader, "MAX_ITEM_BYTES", 3)
        with pytest.raises(InvalidImageError, match="at most 3"):
            corpus.read(item)
    write(tmp_path / "a.parquet", {"other": [1]})
    with pytest.raises(InvalidCorpusError, match="its columns are other"):
        open_corpus(str(path))
    path.write_bytes(b"PAR1 is all that is true of this PAR1")
    with pytest.raises(InvalidCorpusError, match="not a whole Parquet file"):
        open_corpus(str(path))
    path.unlink()
    with pytest.raises(InvalidCorpusError, match="no Parquet files"):
        open_corpus(f"parquet:{tmp_path}")


def test_a_row_that_is_gone_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": [image_bytes(n) for n in range(9)]})
    items, _ = scan(str(path))
    write(tmp_path / "a.parquet", {"image": [image_bytes(1)]})
    with open_corpus(str(path)) as corpus:
        with pytest.raises(InvalidImageError, match="cannot be read"):
            corpus.read(items[3])
        with pytest.raises(InvalidImageError, match="cannot be read"):
            corpus.read(items[8])
