"""The item table."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicinal import item_table, items
from vicinal.errors import CorruptArtifactError, InvalidArgumentError, InvalidCorpusError, ItemNotFoundError
from vicinal.items import Item, ItemRows, ItemTable, ItemWriter, kind_of, merge_kinds, write_items

NOW = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


def item(item_id: str, **values: object) -> Item:
    return Item(item_id=item_id, digest="0" * 64, source="s", path=f"p/{item_id}", added_at=NOW, **values)  # type: ignore[arg-type]


def test_items_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = [
        item("straße.jpg", label="cat", stamp="1-2", metadata={"price": 3, "sold": True, "at": NOW}),
        item("b.jpg", metadata={"price": 2.5, "name": "bee", "sold": None}),
        item("c"),
    ]
    assert write_items(tmp_path, written) == 3
    table = ItemTable(tmp_path)
    assert len(table) == table.count == 3
    assert table.metadata_columns == {"at": "time", "name": "string", "price": "float", "sold": "bool"}
    first = table.item(0)
    assert (first.item_id, first.label, first.stamp, first.added_at) == ("straße.jpg", "cat", "1-2", NOW)
    assert first.metadata == {"at": NOW, "name": None, "price": 3.0, "sold": True}
    assert table.item(2).metadata == {"at": None, "name": None, "price": None, "sold": None}
    assert table.item(2).label is None
    assert table.item_ids([2, 0, 1]) == ["c", "straße.jpg", "b.jpg"]
    assert table.item_ids(np.array([1])) == ["b.jpg"]
    assert [table.row(one.item_id) for one in written] == [0, 1, 2]
    assert table.column("price").to_pylist() == [3.0, 2.5, None]


def test_an_unknown_id_and_an_unknown_column_are_named(tmp_path: Path) -> None:
    write_items(tmp_path, [item("a"), item("b")])
    table = ItemTable(tmp_path)
    assert table.find("x") is None
    with pytest.raises(ItemNotFoundError, match="'x' among 2"):
        table.row("x")
    with pytest.raises(InvalidArgumentError, match="did you mean 'label'"):
        table.column("labels")


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    assert write_items(tmp_path, []) == 0
    table = ItemTable(tmp_path)
    assert (table.count, table.find("a"), table.item_ids([])) == (0, None, [])
    assert (table.rows(["a"]).tolist(), table.rows([]).tolist()) == ([-1], [])


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCorpusError, match="two items have the id 'b'"):
        write_items(tmp_path, [item("a"), item("b"), item("c"), item("b")])


@pytest.mark.parametrize("item_id", ["", "x" * 1025, "ä" * 513])
def test_an_id_that_is_empty_or_too_long_is_refused(tmp_path: Path, item_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match="item id"):
        write_items(tmp_path, [item(item_id)])


@pytest.mark.parametrize("name", ["", "item_id", "label"])
def test_a_metadata_column_with_a_name_of_the_tables_own_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="may not be called"):
        ItemWriter(tmp_path, kinds={name: "int"})


def test_column_types_widen_to_hold_every_value() -> None:
    kinds: dict[str, str] = {}
    values: list[dict[str, Any]] = [
        {"a": 1, "b": None},
        {"a": 2.5, "b": True},
        {"b": False, "c": 1},
        {"c": "x", "d": NOW},
        {"a": 3},
    ]
    for metadata in values:
        merge_kinds(kinds, metadata)
    assert kinds == {"a": "float", "b": "bool", "c": "string", "d": "time"}
    with pytest.raises(InvalidArgumentError, match="got list"):
        kind_of([])  # type: ignore[arg-type]


def test_mixed_values_are_kept_as_text(tmp_path: Path) -> None:
    naive = NOW.replace(tzinfo=None)
    values = ({"x": 1}, {"x": "one"}, {"x": NOW}, {"t": naive})
    write_items(tmp_path, [item(name, metadata=metadata) for name, metadata in zip("abcd", values, strict=True)])
    table = ItemTable(tmp_path)
    assert table.column("x").to_pylist() == ["1", "one", NOW.isoformat(), None]
    assert table.item(3).metadata["t"] == NOW


def test_rows_beyond_one_record_batch_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (items, item_table):
        monkeypatch.setattr(module, "BATCH_ROWS", 16)
    write_items(tmp_path, (item(f"i{n}", metadata={"n": n}) for n in range(100)), kinds={"n": "int"})
    table = ItemTable(tmp_path)
    assert table.item_ids([0, 15, 16, 99]) == ["i0", "i15", "i16", "i99"]
    assert [table.row(f"i{n}") for n in (0, 50, 99)] == [0, 50, 99]
    assert table.rows(["i99", "i0", "none", "i16"]).tolist() == [99, 0, -1, 16]
    assert table.item(77).metadata == {"n": 77}


def test_rows_of_other_tables_are_written_as_if_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (items, item_table):
        monkeypatch.setattr(module, "BATCH_ROWS", 16)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    values = [{"n": n, "t": NOW + timedelta(n), "gone": None if n % 3 else True, "only": f"é{n}"} for n in range(50)]
    write_items(tmp_path / "a", [item(f"a{n}", metadata=value) for n, value in enumerate(values)])
    write_items(tmp_path / "b", [item(f"b{n}", metadata={"n": n / 4, "t": "soon"}) for n in range(40)])
    first, second = ItemTable(tmp_path / "a"), ItemTable(tmp_path / "b")
    chosen = np.array([0, 1, 15, 16, 17, 40, 33, 49])
    one_item, last_item = item("x", metadata={"n": 1}), item("y", metadata={"t": NOW})
    mixed: list[Item | ItemRows] = [one_item, ItemRows(first, chosen), ItemRows(second, np.arange(40))]
    mixed += [last_item, ItemRows(second, np.zeros(0, np.int64))]
    singly = [one_item, *(first.item(int(row)) for row in chosen), *(second.item(row) for row in range(40)), last_item]
    kinds = {"n": "float", "t": "string", "gone": "bool", "only": "string"}
    for folder, rows in (("one", mixed), ("other", singly), ("counted", mixed)):
        (tmp_path / folder).mkdir()
        assert write_items(tmp_path / folder, rows, kinds=None if folder == "counted" else kinds) == 50
    one, other, counted = (ItemTable(tmp_path / folder) for folder in ("one", "other", "counted"))
    assert [one.item(row) for row in range(50)] == [other.item(row) for row in range(50)]
    assert [counted.item(row) for row in range(50)] == [one.item(row) for row in range(50)]
    assert (tmp_path / "one" / "items.lookup.npy").read_bytes() == (
        tmp_path / "other" / "items.lookup.npy"
    ).read_bytes()
    assert [one.row(name) for name in ("x", "a17", "b39", "y")] == [0, 5, 48, 49]
    (tmp_path / "twice").mkdir()
    with pytest.raises(InvalidCorpusError, match="two items have the id 'a0'"):
        write_items(tmp_path / "twice", [item("a0"), ItemRows(first, np.arange(3))], kinds=kinds)


def test_ids_of_equal_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = lambda ids: np.array([7 for _ in ids], np.uint64)  # noqa: E731
    monkeypatch.setattr(items, "hash_ids", same)
    monkeypatch.setattr(item_table, "hash_ids", same)
    write_items(tmp_path, [item("a"), item("b"), item("c")])
    table = ItemTable(tmp_path)
    assert [table.find(name) for name in "abcd"] == [0, 1, 2, None]
    assert table.rows(["c", "x", "a", "b"]).tolist() == [2, -1, 0, 1]


@given(st.sets(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()), max_size=40))
def test_every_id_leads_to_its_row_and_back(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    folder = tmp_path_factory.mktemp("items")
    order = sorted(names)
    write_items(folder, [item(name) for name in order])
    table = ItemTable(folder)
    assert table.item_ids(range(len(order))) == order
    assert [table.row(name) for name in order] == list(range(len(order)))


@pytest.mark.parametrize("name", ["items.arrow", "items.lookup.npy"])
def test_a_missing_or_damaged_file_is_a_corrupt_artifact(tmp_path: Path, name: str) -> None:
    write_items(tmp_path, [item("a")])
    (tmp_path / name).write_bytes(b"garbage")
    with pytest.raises(CorruptArtifactError, match="damaged"):
        ItemTable(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CorruptArtifactError, match="damaged"):
        ItemTable(tmp_path)


def test_a_lookup_of_another_table_is_a_corrupt_artifact(tmp_path: Path) -> None:
    write_items(tmp_path, [item("a")])
    np.save(tmp_path / "items.lookup.npy", np.zeros((2, 5), np.uint64))
    with pytest.raises(CorruptArtifactError, match="do not belong together"):
        ItemTable(tmp_path)


def test_an_error_while_writing_leaves_no_table_that_opens(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError), ItemWriter(tmp_path) as writer:
        writer.append(item(""))
    with pytest.raises(CorruptArtifactError):
        ItemTable(tmp_path)


def test_times_before_1970_and_with_other_zones_are_kept(tmp_path: Path) -> None:
    old = datetime(1950, 1, 1, tzinfo=UTC) + timedelta(microseconds=7)
    write_items(tmp_path, [item("a", metadata={"t": old})])
    assert ItemTable(tmp_path).item(0).metadata["t"] == old
