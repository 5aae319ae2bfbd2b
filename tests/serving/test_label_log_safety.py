"""The label log: damage is refused and left as it is; undo is exact after any sequence of changes."""

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.labels import proposals, schema
from serving.labels.log import LabelLog
from serving.labels.proposals import Proposal
from tests.serving.made_labels import entries, held
from vicinal.errors import (
    BusyError,
    CorruptArtifactError,
    StorageError,
)


@pytest.fixture
def log(tmp_path: Path) -> LabelLog:
    log = LabelLog(tmp_path / "labels" / "labels.db")
    log.create_set("pets")
    log.create_set("tags", multi_label=True)
    return log


def test_a_damaged_log_is_refused_by_name_and_left_as_it_is(log: LabelLog) -> None:
    for start in range(0, 2000, 100):
        log.put("pets", entries({f"item-{n:05d}": f"class-{n % 7}" for n in range(start, start + 100)}))
    log.close()
    with sqlite3.connect(log.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    whole = log.path.read_bytes()
    damages = [whole[: len(whole) // 2], whole[: len(whole) - 4096], b"", b"junk" * 5000, whole[:4096] + bytes(8192)]
    for damage in damages:
        log.path.write_bytes(damage)
        with pytest.raises(CorruptArtifactError, match=r"labels\.db"):
            LabelLog(log.path)
        assert log.path.read_bytes() == damage
    log.path.write_bytes(whole)
    assert len(held(LabelLog(log.path))) == 2000


def test_a_log_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(CorruptArtifactError, match="not a label log"):
        LabelLog(other)
    log = LabelLog(tmp_path / "labels.db")
    log.close()
    with sqlite3.connect(log.path) as db:
        db.execute("PRAGMA user_version=9")
    with pytest.raises(CorruptArtifactError, match="format_version 9"):
        LabelLog(log.path)


def test_a_log_that_vanished_beside_its_journal_is_not_made_anew(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat"}))
    journal = log.path.with_name("labels.db-wal")
    assert journal.exists()
    log.path.unlink()
    with pytest.raises(CorruptArtifactError, match="missing beside"):
        LabelLog(log.path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file/labels\.db"):
        LabelLog(tmp_path / "file" / "labels.db")


def test_a_log_with_every_kind_of_row_opens_again(log: LabelLog) -> None:
    log.put("pets", entries({f"i{n}": "cat" for n in range(30)}), request_id="r")
    log.rename("pets", "cat", "dog")
    open_ones = [Proposal(item_id=f"p{n}", label="dog", probability=0.9, score=0.5) for n in range(300)]
    proposals.replace(log, "pets", open_ones)
    proposals.reject(log, "pets", proposals.Choice(item_ids=[f"p{n}" for n in range(100)]))
    proposals.accept(log, "pets", proposals.Choice(item_ids=[f"p{n}" for n in range(100, 200)]))
    log.undo("pets")
    log.close()
    again = LabelLog(log.path)
    assert len(proposals.rejected(again, "pets")) == 100
    assert len(proposals.listed(again, "pets", limit=1000)) == 100
    again.close()


def test_a_log_that_another_process_holds_is_busy_and_then_free(log: LabelLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_S", 0.05)
    log.close()
    other = LabelLog(log.path)
    with other.writing():
        with pytest.raises(BusyError, match="another process has been writing"):
            log.put("pets", entries({"a": "cat"}))
        assert held(log) == {}, "reading goes on meanwhile"
    assert log.put("pets", entries({"a": "cat"})).number == 1
    other.close()


def test_a_full_disk_refuses_the_batch_and_keeps_the_rest(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat"}))
    with log.reading() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError, match="full; nothing was acknowledged"):
        log.put("pets", entries({f"item-{n:06d}": "dog" for n in range(5000)}))
    assert held(log) == {"a": "cat"}
    log.close()
    assert log.put("pets", entries({"b": "dog"})).number == 2, "numbers have no gap"


ITEMS = st.sampled_from(["a", "b", "c"])
LABELS = st.sampled_from(["cat", "dog", "cow", None])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.dictionaries(ITEMS, LABELS, min_size=1)),
        st.tuples(st.just("remove"), ITEMS),
        st.tuples(st.just("rename"), st.just("x")),
    ),
    min_size=1,
    max_size=5,
)


def state(log: LabelLog) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for row in log.labels("s"):
        found.setdefault(row.item_id, []).append(row.label)
    return found


def take(log: LabelLog, verb: str, what: object, *, chance: random.Random) -> int:
    classes = sorted(log.get_set("s").classes)
    if verb == "rename" and classes:
        label = chance.choice(classes)
        new_label = chance.choice([one for one in ("cat", "elk", "yak") if one != label])
        return log.rename("s", label, new_label)[0].number
    if verb == "put":
        return log.put("s", entries(what)).number  # type: ignore[arg-type]
    return log.remove("s", [(str(what), None)]).number


@settings(max_examples=10)
@given(steps=STEPS, multi=st.booleans(), seed=st.integers(0, 1000))
def test_undoing_everything_in_reverse_and_redoing_it_restores_every_state(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], multi: bool, seed: int
) -> None:
    log = LabelLog(tmp_path_factory.mktemp("log") / "labels.db")
    log.create_set("s", multi_label=multi)
    states = [state(log)]
    numbers = []
    for n, (verb, what) in enumerate(steps):
        numbers.append(take(log, verb, what, chance=random.Random(seed + n)))
        states.append(state(log))
    for number, wanted in zip(reversed(numbers), reversed(states[:-1]), strict=True):
        assert log.undo("s", number).skipped_count == 0
        assert state(log) == wanted
    for number, wanted in zip(numbers, states[1:], strict=True):
        log.redo("s", number)
        assert state(log) == wanted
    log.close()
