"""The label log: versions, undo, conflicts and refusals are exact."""

from pathlib import Path

import pytest

from serving.labels.log import LabelLog
from serving.labels.records import Entry, Source
from tests.serving.made_labels import Labels, entries, held
from vicinal.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidLabelError,
    LabelSetNotFoundError,
)


@pytest.fixture
def log(tmp_path: Path) -> LabelLog:
    log = LabelLog(tmp_path / "labels" / "labels.db")
    log.create_set("pets")
    log.create_set("tags", multi_label=True)
    return log


def test_labels_hold_after_the_log_is_opened_again(log: LabelLog) -> None:
    batch = log.put(
        "labelSets/pets", entries({"b.png": "dog", "a.png": "cat", "c.png": None}), snapshot="snapshots/000001"
    )
    log.close()
    again = LabelLog(log.path)
    assert held(again) == {"a.png": "cat", "b.png": "dog", "c.png": None}
    row = again.labels("pets")[0]
    assert (row.author, row.source, row.confidence, row.batch) == ("ann", Source.HUMAN, 1.0, batch.number)
    assert row.snapshot == "snapshots/000001"
    found = again.get_set("pets")
    assert (found.classes, found.negative_count, found.version) == ({"cat": 1, "dog": 1}, 1, 1)


def test_a_single_label_set_replaces_and_a_multi_label_set_gathers(log: LabelLog) -> None:
    for name in ("pets", "tags"):
        log.put(name, entries({"a.png": "cat"}))
        log.put(name, entries({"a.png": "dog"}))
    assert [row.label for row in log.labels("pets")] == ["dog"]
    assert [row.label for row in log.labels("tags")] == ["cat", "dog"]
    log.put("tags", entries({"a.png": None}))
    assert [row.label for row in log.labels("tags")] == [None]


def test_every_version_can_be_read_again(log: LabelLog) -> None:
    wanted: list[Labels] = [{}]
    for labels in ({"a": "cat", "b": "dog"}, {"a": "dog"}, {"c": "cat"}):
        log.put("pets", entries(labels))
        wanted.append({**wanted[-1], **labels})
    log.remove("pets", [("b", None)])
    wanted.append({item: label for item, label in wanted[-1].items() if item != "b"})
    assert [held(log, version=version) for version in range(5)] == wanted
    assert held(log) == wanted[-1]
    for version in (-1, 5):
        with pytest.raises(LabelSetNotFoundError, match="versions 0 to 4"):
            log.labels("pets", version=version)


def test_a_repeated_request_returns_the_same_batch_and_changes_nothing(log: LabelLog) -> None:
    first = log.put("pets", entries({"a": "cat"}), request_id="r1")
    log.put("pets", entries({"a": "dog"}))
    again = log.put("pets", entries({"a": "cat"}), request_id="r1")
    assert (again.number, again.change_count) == (first.number, first.change_count)
    assert held(log) == {"a": "dog"}
    log.remove("pets", [("a", None)], request_id="r2")
    assert log.remove("pets", [("a", None)], request_id="r2").change_count == 1
    assert log.put("tags", entries({"a": "cat"}), request_id="r1").number == 1
    with pytest.raises(InvalidLabelError, match="request_id"):
        log.put("pets", entries({"a": "cat"}), request_id="r" * 129)


def test_undo_and_redo_go_there_and_back(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat", "b": "cat"}))
    log.put("pets", entries({"b": "dog", "c": "dog"}))
    undo = log.undo("pets")
    assert (undo.verb, undo.target, undo.skipped_count) == ("undo", 2, 0)
    assert held(log) == {"a": "cat", "b": "cat"}
    assert [batch.undone for batch in log.batches("pets")] == [False, True, False]
    redo = log.redo("pets")
    assert (redo.verb, redo.target) == ("redo", 2)
    assert held(log) == {"a": "cat", "b": "dog", "c": "dog"}
    log.undo("pets", 2)
    log.undo("pets")
    assert held(log) == {}
    log.redo("pets", 1)
    assert held(log) == {"a": "cat", "b": "cat"}


def test_undo_leaves_alone_what_was_changed_since(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat", "b": "cat"}))
    log.put("pets", entries({"a": "dog"}))
    undo = log.undo("pets", 1)
    assert (undo.change_count, undo.skipped_count) == (1, 1)
    assert held(log) == {"a": "dog"}


def test_undo_says_why_it_cannot(log: LabelLog) -> None:
    for step in (log.undo, log.redo):
        with pytest.raises(FailedPreconditionError, match=r"nothing to undo|no batch of 'pets' is undone"):
            step("pets")
    log.put("pets", entries({"a": "cat"}))
    with pytest.raises(FailedPreconditionError, match="is not undone"):
        log.redo("pets", 1)
    log.undo("pets", 1)
    with pytest.raises(FailedPreconditionError, match="already undone"):
        log.undo("pets", 1)
    with pytest.raises(FailedPreconditionError, match="itself an undo"):
        log.undo("pets", 2)
    with pytest.raises(LabelSetNotFoundError, match="no batch 9"):
        log.undo("pets", 9)


def test_renaming_merging_and_their_undo(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat", "b": "dog"}))
    batch, merged = log.rename("pets", "cat", "feline", author="bob")
    assert (batch.change_count, merged) == (1, False)
    assert log.labels("pets")[0].author == "ann"
    batch, merged = log.rename("pets", "dog", "feline")
    assert merged
    assert log.get_set("pets").classes == {"feline": 2}
    log.undo("pets")
    log.undo("pets")
    assert held(log) == {"a": "cat", "b": "dog"}
    log.put("tags", entries({"a": "cat"}))
    log.put("tags", entries({"a": "feline"}))
    log.rename("tags", "cat", "feline")
    assert [row.label for row in log.labels("tags")] == ["feline"]
    log.undo("tags")
    assert [row.label for row in log.labels("tags")] == ["cat", "feline"]
    with pytest.raises(LabelSetNotFoundError, match="did you mean 'cat'"):
        log.rename("pets", "cst", "x")
    with pytest.raises(InvalidLabelError, match="that name already"):
        log.rename("pets", "cat", "cat")


def test_the_put_of_a_renamed_class_can_still_be_undone(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat"}))
    log.rename("pets", "cat", "feline")
    assert log.undo("pets", 1).change_count == 1
    assert held(log) == {}
    log.redo("pets", 1)
    assert held(log) == {"a": "feline"}


def test_two_people_who_disagree_make_a_conflict_until_one_speaks_again(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat", "b": "cat"}, author="ann"))
    log.put("pets", entries({"a": "dog", "b": "cat"}, author="bob"))
    (conflict,) = log.conflicts("pets")
    assert conflict.item_id == "a"
    assert [(row.author, row.label) for row in conflict.labels] == [("bob", "dog"), ("ann", "cat")]
    assert log.labels_of_items("pets") == [("b", "cat")]
    log.put("pets", entries({"a": "cat"}, author="ann"))
    assert log.conflicts("pets") == []
    log.put("pets", entries({"a": "dog"}, author="cid"))
    assert len(log.conflicts("pets")) == 1
    log.rename("pets", "dog", "cat")
    assert log.conflicts("pets") == []
    log.put("pets", entries({"b": "dog"}, author="bob"))
    assert log.conflicts("pets") == [], "one who changes their mind disagrees with nobody"


def test_in_a_multi_label_set_taking_off_the_label_of_another_is_a_conflict(log: LabelLog) -> None:
    log.put("tags", entries({"a": "cat", "b": "cat"}, author="ann"))
    log.remove("tags", [("a", "cat")], author="bob")
    log.remove("tags", [("b", "cat")], author="ann")
    assert [(one.item_id, one.labels[0].author) for one in log.conflicts("tags")] == [("a", "ann")]
    log.put("tags", entries({"a": "cat"}, author="bob"))
    assert log.conflicts("tags") == []


def test_a_propagated_label_never_replaces_what_a_person_said(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat"}))
    batch = log.put("pets", entries({"a": "dog", "b": "dog"}, source=Source.PROPAGATED), verb="accept")
    assert batch.change_count == 1
    assert held(log) == {"a": "cat", "b": "dog"}
    log.put("pets", entries({"b": "cat"}))
    assert held(log) == {"a": "cat", "b": "cat"}
    assert log.conflicts("pets") == []


def test_a_deleted_set_is_hidden_until_that_is_undone(log: LabelLog) -> None:
    log.put("pets", entries({"a": "cat"}))
    batch = log.delete_set("pets")
    assert [one.name for one in log.list_sets()] == ["labelSets/tags"]
    with pytest.raises(LabelSetNotFoundError, match="was deleted; undo that"):
        log.labels("pets")
    with pytest.raises(AlreadyExistsError, match="it was deleted"):
        log.create_set("pets")
    log.undo("pets", batch.number)
    assert held(log) == {"a": "cat"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry(item_id="a", label=""), "1 to 256 bytes"),
        (Entry(item_id="a", label="x" * 257), "got 257"),
        (Entry(item_id="a", label="\x00"), "control"),
        (Entry(item_id="", label="cat"), "item id"),
        (Entry(item_id="x" * 1025, label="cat"), "item id"),
        (Entry(item_id="a", label="cat", confidence=1.5), "confidence"),
        (Entry(item_id="a", label="cat", confidence=float("nan")), "confidence"),
        (Entry(item_id="a", label="cat", author="x" * 257), "author"),
    ],
)
def test_a_bad_entry_refuses_the_whole_batch(log: LabelLog, entry: Entry, words: str) -> None:
    with pytest.raises(InvalidLabelError, match=words):
        log.put("pets", [Entry(item_id="good", label="cat"), entry])
    assert held(log) == {}
    assert log.batches("pets") == []


def test_one_item_under_two_labels_in_one_request_is_refused(log: LabelLog) -> None:
    twice = [Entry(item_id="a", label="cat"), Entry(item_id="a", label="dog")]
    with pytest.raises(InvalidLabelError, match="two labels in one request, 'cat' and 'dog'"):
        log.put("pets", twice)
    assert log.put("tags", twice).change_count == 2
    with pytest.raises(InvalidLabelError, match="wanted 1 to"):
        log.put("pets", [])
    with pytest.raises(InvalidLabelError, match="at least one item"):
        log.remove("pets", [])


@pytest.mark.parametrize("name", ["", "No", "a b", "x" * 64, "labelSets/", "../../etc"])
def test_bad_set_names_are_refused(log: LabelLog, name: str) -> None:
    with pytest.raises(InvalidLabelError, match="label set name"):
        log.create_set(name)


def test_names_of_sets(log: LabelLog) -> None:
    with pytest.raises(AlreadyExistsError, match="labelSets/pets exists"):
        log.create_set("labelSets/pets")
    with pytest.raises(LabelSetNotFoundError, match="did you mean 'pets'"):
        log.labels("pest")
    assert [one.multi_label for one in log.list_sets()] == [False, True]


def test_a_set_may_have_a_hundred_thousand_classes(log: LabelLog) -> None:
    log.put("pets", [Entry(item_id=f"i{n}", label=f"c{n}") for n in range(100_000)])
    assert len(log.get_set("pets").classes) == 100_000
    page = log.labels("pets", after="i5", limit=10)
    assert [row.item_id for row in page[:2]] == ["i50", "i500"]
    assert len(page) == 10
    assert [row.item_id for row in log.labels("pets", label="c77")] == ["i77"]


def test_batches_are_listed_newest_first_in_pages(log: LabelLog) -> None:
    for n in range(5):
        log.put("pets", entries({f"i{n}": "cat"}, author=f"a{n}"))
    assert [batch.number for batch in log.batches("pets", limit=2)] == [5, 4]
    assert [batch.author for batch in log.batches("pets", before=4, limit=2)] == ["a2", "a1"]
