"""The reader of the label log, held to the log itself."""

import sqlite3
from pathlib import Path

import pytest

from serving.labels.log import LabelLog
from serving.labels.records import Entry
from vicinal.errors import CorruptArtifactError
from vicinal.label_tables import read_label_tables
from vicinal.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "workspace")


@pytest.fixture
def log(store: Store) -> LabelLog:
    return LabelLog(store.root / "labels" / "labels.db")


def known(log: LabelLog, name: str) -> dict[str, str]:
    return {item_id: label for item_id, label in log.labels_of_items(name) if label is not None}


def test_it_reads_what_holds(store: Store, log: LabelLog) -> None:
    assert read_label_tables(store) == {}
    log.create_set("shoes")
    log.create_set("tags", multi_label=True)
    log.put("shoes", [Entry(item_id=f"i{n}", label="a" if n % 2 else "b", author="ada") for n in range(8)])
    log.put("tags", [Entry(item_id="i1", label="x")])
    log.put("shoes", [Entry(item_id="i1", label="c", author="bob"), Entry(item_id="i9", label=None)])
    log.remove("shoes", [("i2", None)])
    log.rename("shoes", "b", "d")
    tables = read_label_tables(store)
    assert tables == {"shoes": known(log, "shoes")}
    assert set(tables["shoes"]) == {"i0", "i3", "i4", "i5", "i6", "i7"}
    log.undo("shoes")
    assert read_label_tables(store)["shoes"] == known(log, "shoes")


def test_a_deleted_set_is_left_out_until_that_is_undone(store: Store, log: LabelLog) -> None:
    log.create_set("shoes")
    log.put("shoes", [Entry(item_id="i1", label="a")])
    for _ in range(2):
        log.delete_set("shoes")
        assert read_label_tables(store) == {}
        log.undo("shoes")
        assert read_label_tables(store) == {"shoes": {"i1": "a"}}
    log.redo("shoes")
    assert read_label_tables(store) == {}


def test_a_damaged_log_is_named(store: Store, log: LabelLog) -> None:
    path = log.path
    log.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(CorruptArtifactError, match="user_version 9"):
        read_label_tables(store)
    path.write_bytes(b"not a database, and long enough to be read as one")
    with pytest.raises(CorruptArtifactError, match=r"labels\.db"):
        read_label_tables(store)
