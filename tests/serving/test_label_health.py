"""Dataset health finds what was planted: duplicates, outliers, label errors, leaks."""

import json
from pathlib import Path

import numpy as np
import pytest

from index.snapshot import Snapshot
from serving.labels import health
from serving.labels.health import NEIGHBOR_COUNT, all_neighbors, check
from serving.labels.log import shared_log
from serving.labels.records import Entry
from tests.serving.labelled_workspace import CLASSES, add_snapshot, item_id, made_clusters
from vicinal.cli import run
from vicinal.errors import InvalidArgumentError
from vicinal.store import Store

COUNT = 300
SAME, NEAR, FAR = [(3, 203), (8, 208, 28)], [(40, 52), (90, 122)], [77, 150]
WRONG = {21: "tree", 102: "boat", 143: "bird"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.create(tmp_path_factory.mktemp("health") / "workspace")
    x_ND, _ = made_clusters(COUNT, noise=0.6)
    rng = np.random.default_rng(1)
    digests = [f"{n:064x}" for n in range(COUNT)]
    for group in SAME:
        for row in group[1:]:
            x_ND[row], digests[row] = x_ND[group[0]], digests[group[0]]
    for one, other in NEAR:
        x_ND[other] = x_ND[one] + 0.01 * rng.standard_normal(32)
    for row in FAR:
        x_ND[row] = 3 * rng.standard_normal(32)
    add_snapshot(store, x_ND, digests=digests)
    log = shared_log(store)
    log.create_set("truth")
    labels = {row: WRONG.get(row, CLASSES[row % 4]) for row in range(COUNT) if row not in FAR}
    log.put("truth", [Entry(item_id=item_id(row), label=label) for row, label in labels.items()])
    log.create_set("some")
    some = {row: label for row, label in labels.items() if row < 145}
    log.put("some", [Entry(item_id=item_id(row), label=label) for row, label in some.items()])
    return store


def labels_of(store: Store, name: str) -> dict[str, str]:
    return {row.item_id: str(row.label) for row in shared_log(store).labels(name)}


def ids(rows: tuple[int, ...] | list[int]) -> set[str]:
    return {item_id(row) for row in rows}


@pytest.mark.parametrize("name", ["truth", "some"])
def test_what_was_planted_is_found(store: Store, name: str) -> None:
    told: list[int] = []
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        found = check(snapshot, labels=labels_of(store, name), progress=told.append)
    assert told[-1] == found.item_count == COUNT
    assert [set(group) for group in found.exact_groups] == [ids(SAME[1]), ids(SAME[0])]
    assert [set(group) for group in found.near_groups] == [ids(pair) for pair in NEAR]
    assert ids(FAR) == {item for item, _ in found.outliers[:2]}
    assert {(one.item_id, one.label) for one in found.suspects} == {(item_id(r), WRONG[r]) for r in WRONG}
    assert {one.item_id: one.likely for one in found.suspects} == {item_id(r): CLASSES[r % 4] for r in WRONG}
    leaks = {frozenset((one.item_id, one.other_item_id)) for one in found.leaks}
    assert leaks == {frozenset(ids(pair)) for pair in NEAR}


def test_many_labels_are_judged_by_the_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_LABELLED_LIMIT", 10)
    monkeypatch.setattr(health, "_LABELLED_CHUNK", 32 * 50)
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        found = check(snapshot, labels=labels_of(store, "some"))
    assert {(one.item_id, one.label) for one in found.suspects} == {(item_id(r), WRONG[r]) for r in WRONG}


def test_every_item_has_its_nearest_others_and_never_itself(store: Store) -> None:
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        near = all_neighbors(snapshot, np.zeros(32, np.float32))
        truth = snapshot.exact(snapshot.vectors_ND, neighbor_count=NEIGHBOR_COUNT + 1)
    own_N1 = np.arange(COUNT)[:, None]
    assert (near.rows_NK != own_N1).all()
    assert near.rows_NK.shape == (COUNT, NEIGHBOR_COUNT)
    others = [set(row[row != n][:NEIGHBOR_COUNT].tolist()) for n, row in enumerate(truth.rows_QK)]
    assert np.mean([set(row.tolist()) == other for row, other in zip(near.rows_NK, others, strict=True)]) > 0.97


def test_no_labels_and_one_class_give_no_suspects(store: Store) -> None:
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        assert check(snapshot, labels={}).suspects == []
        assert check(snapshot, labels={item_id(1): "a", item_id(2): "a"}).suspects == []
        with pytest.raises(InvalidArgumentError, match="no column 'splt'"):
            check(snapshot, labels={}, split_column="splt")


def test_two_items_are_each_others_neighbors(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "workspace")
    add_snapshot(store, made_clusters(10)[0])
    with Snapshot.open(store.path("snapshots", "latest")) as snapshot:
        found = check(snapshot, labels={item_id(0): "a", item_id(1): "b"})
    assert found.item_count == 10


def test_the_command_prints_and_writes_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["health", "-w", str(store.root), "--labels", "truth"]) == 0
    text = capsys.readouterr().out
    assert "identical" in text
    assert "likely label errors" in text
    assert run(["health", "-w", str(store.root), "--labels", "truth", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["snapshot"] == "snapshots/000001"
    assert len(found["suspects"]) == len(WRONG)
    assert run(["health", "-w", str(store.root), "--near-duplicate", "2"]) == 2
    assert "wanted above 0" in capsys.readouterr().err
