"""The way of a corpus: embed, build, publish, take in new images, roll back, with a real encoder on real files."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from index import refresh_commands
from index.build import BuildConfig, build
from index.delta import Delta
from index.gates import Gates
from index.publish import publish, rollback
from index.refresh import RefreshConfig, refresh
from index.snapshot import Snapshot
from tests.index.made_images import write_images
from tests.index.made_vectors import AddEmbeddings, clustered, make_item
from vicinal.embeddings import Embeddings
from vicinal.errors import (
    GateFailedError,
    InvalidArgumentError,
    NoActiveSnapshotError,
    NoEncoderError,
    SnapshotNotFoundError,
)
from vicinal.store import Store


def active_snapshot(store: Store) -> Snapshot:
    return Snapshot.open(store.path("snapshots", store.active().snapshot))


def test_refresh_embeds_only_new_images_and_adds_them(served: Store, corpus: Path) -> None:
    write_images(corpus, range(60, 66))
    report = refresh(served, [str(corpus)])
    assert report.action == "add"
    assert report.embedded is not None
    assert (report.embedded.new_count, report.embedded.reused_count, report.changes.new_count) == (6, 60, 6)
    assert served.active().snapshot == "000002"
    with active_snapshot(served) as snapshot:
        assert snapshot.count == 66
        assert snapshot.manifest.body["parent"] == "snapshots/000001"
        row = snapshot.items.row("0063.png")
        assert snapshot.search(snapshot.vectors_ND[row : row + 1], neighbor_count=1).rows_QK[0, 0] == row


def test_the_drift_report_is_drawn_beside_the_rest_and_may_fail_alone(served: Store, corpus: Path) -> None:
    told: list[str] = []
    write_images(corpus, range(60, 62))
    refresh(served, [str(corpus)], progress=told.append)
    (report,) = (served.root / "reports").glob("drift-*.json")
    assert report.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert not [text for text in told if "drawn" in text]
    report.with_suffix(".png").unlink()
    # Where the next picture is to go there is a folder.
    (served.root / "reports" / "drift-000004.png").mkdir()
    write_images(corpus, range(62, 64))
    done = refresh(served, [str(corpus)], progress=told.append)
    assert done.published is not None
    assert (served.root / "reports" / "drift-000004.json").exists()
    assert [text for text in told if "drawn" in text] == ["the drift report could not be drawn; its JSON is there"]


def test_refresh_with_nothing_new_changes_nothing(served: Store, corpus: Path) -> None:
    report = refresh(served, [str(corpus)])
    assert (report.action, report.built) == ("none", None)
    assert served.active().generation == 1


def test_a_corpus_that_is_not_named_again_stays(served: Store, tmp_path: Path) -> None:
    write_images(tmp_path / "more", range(100, 103))
    report = refresh(served, [f"more={tmp_path / 'more'}"], config=RefreshConfig(prune=True))
    assert (report.changes.new_count, report.changes.vanished_count, report.action) == (3, 0, "add")
    with active_snapshot(served) as snapshot:
        assert snapshot.count == 63


def test_changed_and_pruned_items_lead_to_a_rebuild(served: Store, corpus: Path) -> None:
    write_images(corpus, range(2), seed=1)
    for number in (10, 11, 12):
        (corpus / f"{number:04d}.png").unlink()
    (corpus / "0020.png").rename(corpus / "0990.png")
    with pytest.raises(InvalidArgumentError, match="cannot add"):
        refresh(served, [str(corpus)], config=RefreshConfig(prune=True, action="add"))
    report = refresh(served, [str(corpus)], config=RefreshConfig(prune=True))
    changes = report.changes
    assert (changes.changed_count, changes.vanished_count, changes.moved_count, changes.new_count) == (2, 4, 1, 1)
    assert report.action == "rebuild"
    with active_snapshot(served) as snapshot:
        assert snapshot.count == 57
        assert snapshot.items.find("0010.png") is None
    embeddings = Embeddings.open(served.path("embeddings", "latest"))
    assert embeddings.items.count == 57


def test_without_prune_vanished_items_stay(served: Store, corpus: Path) -> None:
    (corpus / "0010.png").unlink()
    write_images(corpus, range(70, 71))
    report = refresh(served, [str(corpus)])
    assert (report.action, report.changes.vanished_count) == ("add", 1)
    with active_snapshot(served) as snapshot:
        assert snapshot.items.find("0010.png") is not None
        assert snapshot.count == 61


def test_changes_through_the_api_are_folded_in_and_outlive_the_corpus(served: Store, corpus: Path) -> None:
    with active_snapshot(served) as before:
        space = {"fingerprint": before.fingerprint, "dimension": before.dimension, "metric": before.metric}
        delta = Delta(served, **space)  # type: ignore[arg-type]
        delta.upsert([make_item(900)], before.vectors_ND[:1] * 2)
        delta.delete(["0005.png"])
    report = refresh(served, [str(corpus)])
    assert (report.action, report.changes.folded_count) == ("rebuild", 2)
    with active_snapshot(served) as snapshot:
        assert snapshot.count == 60
        assert snapshot.items.find("0005.png") is None
        assert snapshot.items.find("item-000900") == 59
        number = snapshot.manifest.body["delta_number"]
    assert Delta(served, **space).changes(after=number) == {}  # type: ignore[arg-type]
    assert refresh(served, [str(corpus)], config=RefreshConfig(prune=True)).action == "none"


def test_a_failed_gate_changes_nothing(served: Store, corpus: Path) -> None:
    write_images(corpus, range(60, 64))
    with pytest.raises(GateFailedError, match="size_mib"):
        refresh(served, [str(corpus)], config=RefreshConfig(gates=Gates(size_mib=0.001)))
    assert served.active().snapshot == "000001"
    assert (served.root / "reports" / "publish-000002.json").is_file()


def test_rollback_goes_back_and_a_damaged_snapshot_is_not_activated(served: Store, corpus: Path) -> None:
    with pytest.raises(SnapshotNotFoundError, match="no snapshot was served before"):
        rollback(served)
    write_images(corpus, range(60, 64))
    refresh(served, [str(corpus)])
    assert rollback(served).snapshot == "000001"
    assert served.active().generation == 3


def test_without_a_corpus_what_came_through_the_api_is_folded_in(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(50, 4))
    build(store, config=BuildConfig(query_count=10))
    publish(store)
    assert refresh(store, []).action == "none"
    with active_snapshot(store) as before:
        space = {"fingerprint": before.fingerprint, "dimension": before.dimension, "metric": before.metric}
    Delta(store, **space).upsert([make_item(900)], clustered(1, 4))  # type: ignore[arg-type]
    report = refresh(store, [])
    assert (report.action, report.embedded, report.changes.folded_count) == ("add", None, 1)
    with active_snapshot(store) as snapshot:
        assert (snapshot.count, snapshot.items.find("item-000900")) == (51, 50)


def test_refresh_needs_a_snapshot(tmp_path: Path) -> None:
    with pytest.raises(NoActiveSnapshotError):
        refresh(Store.create(tmp_path / "empty"), ["x"])


def test_refresh_without_an_encoder_says_so(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(50, 4))
    build(store, config=BuildConfig(query_count=10))
    publish(store)
    with pytest.raises(NoEncoderError):
        refresh(store, ["x"])


def test_the_command_refreshes_again_and_again(served: Store, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    really_sleep = time.sleep

    def sleep(seconds: float) -> None:
        if seconds < 1:
            # Who waits for a process looks again and again.
            really_sleep(seconds)
            return
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt
        write_images(corpus, range(80, 82))

    monkeypatch.setattr("time.sleep", sleep)
    arguments = [str(corpus), "-w", str(served.root), "--every", "1h", "--json"]
    result = CliRunner().invoke(refresh_commands.refresh, arguments)
    actions = [json.loads(line)["action"] for line in result.stdout.splitlines() if line.startswith("{")]
    assert actions == ["none", "add"]
    assert all(3000 < pause <= 3600 for pause in pauses)


def test_the_command_prints_what_was_refreshed(served: Store, corpus: Path) -> None:
    write_images(corpus, range(60, 90))
    result = CliRunner().invoke(refresh_commands.refresh, [str(corpus), "-w", str(served.root)], catch_exceptions=False)
    assert result.exit_code == 0
    for words in ("new_count", "drift", "generation 2"):
        assert words in result.output
