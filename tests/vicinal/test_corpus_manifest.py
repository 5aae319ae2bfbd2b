"""Manifests (CSV, TSV, JSON lines) as corpora."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpora import fill, image_bytes
from vicinal.corpus import CorpusItem, Quarantined, open_corpus
from vicinal.errors import InvalidCorpusError
from vicinal.typed_text import kinds_of, typed


def scan(spec: str) -> tuple[list[CorpusItem], dict[str, str]]:
    with open_corpus(spec) as corpus:
        entries = list(corpus.scan())
    items = [entry for entry in entries if isinstance(entry, CorpusItem)]
    return items, {entry.item_id: entry.reason for entry in entries if isinstance(entry, Quarantined)}


CSV = """\ufeffpath,item_id,label,price,sold,zip,seen,note
class0/0000.png,A1,shoe,3,true,01234,2026-01-02,"a, b"
class1/0001.png,,hat,2.5,FALSE,99999,2026-01-02T03:04:05Z,
./class0/../class0/0002.png,A3,,,,,,x
"""


def test_a_csv_manifest_gives_ids_labels_and_typed_columns(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    (tmp_path / "items.csv").write_text(CSV, encoding="utf-8")
    items, bad = scan(str(tmp_path / "items.csv"))
    assert not bad
    assert [item.item_id for item in items] == ["A1", "class1/0001.png", "A3"]
    assert [item.path for item in items] == ["class0/0000.png", "class1/0001.png", "class0/0002.png"]
    assert [item.label for item in items] == ["shoe", "hat", None]
    assert items[0].metadata == {
        "price": 3.0, "sold": True, "zip": "01234", "seen": datetime(2026, 1, 2, tzinfo=UTC), "note": "a, b",
    }  # fmt: skip
    assert items[1].metadata["seen"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert items[1].metadata["note"] is None
    with open_corpus(str(tmp_path / "items.csv")) as corpus:
        assert corpus.read(items[2]) == image_bytes(2)


def test_a_tsv_and_a_json_lines_manifest_say_the_same(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    rows = [{"file": "class0/0000.png", "n": 1, "tags": ["a"]}, {"file": "class1/0001.png", "n": 2, "tags": None}]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    (tmp_path / "items.tsv").write_text('file\tn\ttags\nclass0/0000.png\t1\t["a"]\nclass1/0001.png\t2\t\n')
    for name in ("items.jsonl", "items.tsv"):
        items, bad = scan(str(tmp_path / name))
        assert not bad
        assert [(item.item_id, item.label, dict(item.metadata)) for item in items] == [
            ("class0/0000.png", "class0", {"n": 1, "tags": '["a"]'}),
            ("class1/0001.png", "class1", {"n": 2, "tags": None}),
        ]


def test_columns_and_root_can_be_named(tmp_path: Path) -> None:
    fill(tmp_path / "images", 2)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x.csv").write_text("where,who,what\nclass0/0000.png,a,cat\n")
    items, _ = scan(f"{tmp_path}/lists/x.csv?path=where&id=who&label=what&root=../images")
    assert [(item.item_id, item.label) for item in items] == [("a", "cat")]
    with pytest.raises(InvalidCorpusError, match="did you mean 'where'"):
        open_corpus(f"{tmp_path}/lists/x.csv?path=wheer")
    with pytest.raises(InvalidCorpusError, match=r"its columns are where, who, what.*\?path=COLUMN"):
        open_corpus(f"{tmp_path}/lists/x.csv")


def test_rows_that_cannot_be_items_are_quarantined(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", 1)
    (tmp_path / "secret.png").write_bytes(image_bytes(9))
    inside, outside = str(root / "class0" / "0000.png"), str(tmp_path / "secret.png")
    rows = ["class0/0000.png", "../secret.png", outside, inside, "gone.png", "", "class0"]
    (root / "items.jsonl").write_text("\n".join(json.dumps({"path": row, "id": n}) for n, row in enumerate(rows)))
    items, bad = scan(f"{root}/items.jsonl?id=id")
    assert [item.item_id for item in items] == ["0", "3"]
    assert bad == {
        "../secret.png": "OUTSIDE_ROOT", "gone.png": "UNREADABLE", "line 6": "NO_PATH", "class0": "NOT_A_FILE"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "no rows"),
        ("a.csv", b"path\n", "no rows"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.jsonl", b'{"path": "x"}\n[1]\n', "wrong after line 2.*got list"),
        ("a.jsonl", b'{"path": "x"}\n{"path', "wrong after line 2"),
        ("a.jsonl", b'{"path": "x"}\n' + b"[" * 100_000, "wrong after line 2"),
        ("a.csv", b"path\n\xff\xfe\n", "is wrong after line"),
        ("a.csv", b'path\n"x\n', "is wrong after line"),
        ("a.csv", b"path\n" + b"x" * (2 << 20), "is wrong after line"),
    ],
)
def test_a_broken_manifest_is_an_error_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidCorpusError, match=message):
        open_corpus(str(tmp_path / name))


def test_types_are_the_narrowest_that_hold_every_value() -> None:
    rows: list[dict[str, Any]] = [
        {"a": "1", "b": "1", "c": "x", "d": "", "e": "1e5", "f": "2026-13-45", "g": 1, "h": float("nan"), "i": 2**70},
        {"a": "2", "b": "2.5", "c": "1", "d": None, "e": ".5", "f": "2026-01-01", "g": "1", "h": 1.5, "i": 1},
    ]
    kinds = kinds_of(rows)
    assert kinds == {
        "a": "int",
        "b": "float",
        "c": "string",
        "e": "float",
        "f": "string",
        "g": "int",
        "h": "float",
        "i": "string",
    }
    assert typed("2.5", "float") == 2.5
    assert typed(float("inf"), "float") is None
    assert typed({"x": 1}, "string") == '{"x": 1}'
    assert typed("1e999", "string") == "1e999"
    assert kinds_of([{"a": "1e999"}, {"a": "00.5"}]) == {"a": "string"}
