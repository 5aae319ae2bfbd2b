"""A refresh with a new encoder: everything is embedded anew, and nothing that was served is lost unasked."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from index import refresh_commands
from index.build import BuildConfig, build
from index.delta import Delta
from index.drift import DriftReport
from index.embed import embed
from index.gates import Gates
from index.publish import publish
from index.refresh import RefreshConfig, decide, refresh
from index.retrain import Retrain
from index.rounds import ended_by_sigterm, pause_s, run_rounds
from index.snapshot import Snapshot
from index.unite import Changes
from tests.index.made_images import put_encoder, write_images
from tests.index.made_vectors import make_item
from vicinal.encoder import Encoder
from vicinal.errors import BusyError, FailedPreconditionError, InvalidArgumentError, InvalidCorpusError
from vicinal.locks import locked
from vicinal.store import Store
from vicinal.types import Metric

AGAIN = RefreshConfig(action="retrain", gates=Gates(query_count=10))


def another_encoder(store: Store, asked: list[tuple[tuple[str, ...], str]]) -> Retrain:
    """Stands for a training: the encoder that comes of it centres pixels elsewhere."""

    def retrain(corpora: Sequence[str], encoder: str) -> str:
        asked.append((tuple(corpora), encoder))
        return put_encoder(store, mean=0.3 + 0.01 * len(asked))

    return retrain


def delta_of(store: Store) -> Delta:
    with Snapshot.open(store.path("snapshots", store.active().snapshot)) as snapshot:
        return Delta(store, fingerprint=snapshot.fingerprint, dimension=snapshot.dimension, metric=snapshot.metric)


def test_everything_is_embedded_anew_and_published(served: Store, corpus: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", range(100, 110))
    more = f"more={tmp_path / 'more'}"
    asked: list[tuple[tuple[str, ...], str]] = []
    with Snapshot.open(served.path("snapshots", "1")) as before:
        first_seen = before.items.item(3).added_at
    report = refresh(served, [more], config=AGAIN, retrain=another_encoder(served, asked))
    assert asked == [((str(corpus), more), "000001")]
    assert (report.action, report.reason, report.recommended) == ("retrain", "asked for", "")
    assert report.reembedded is not None
    assert (report.reembedded.encoder, report.reembedded.embedded.embedded_count) == ("000002", 70)
    assert report.reembedded.bridge is not None
    assert report.reembedded.bridge.pair_count == 60
    with Snapshot.open(served.path("snapshots", served.active().snapshot)) as snapshot:
        encoder = Encoder.load(served.path("encoders", "2"), device="cpu")
        assert (snapshot.count, snapshot.fingerprint) == (70, encoder.fingerprint)
        assert (snapshot.kind, snapshot.manifest.body["parent"]) == ("hnsw", "snapshots/000001")
        assert snapshot.items.item(snapshot.items.row("0003.png")).added_at == first_seen
        assert snapshot.manifest.body["corpora"] == [str(corpus), more]
        image = encoder.decode((corpus / "0003.png").read_bytes())
        found = snapshot.search(encoder.embed(image[None]), neighbor_count=1)
        assert snapshot.items.item_ids(found.rows_QK[0]) == ["0003.png"]
    # The next refresh goes on from the new encoder.
    write_images(corpus, range(60, 63))
    assert refresh(served, [str(corpus)]).action == "add"


def test_what_was_deleted_through_the_api_stays_deleted(served: Store, corpus: Path) -> None:
    delta_of(served).delete(["0005.png"])
    config = RefreshConfig(action="retrain", bridge=False, gates=Gates(query_count=10))
    refresh(served, [str(corpus)], config=config, retrain=another_encoder(served, []))
    assert served.versions("bridges") == []
    with Snapshot.open(served.path("snapshots", served.active().snapshot)) as snapshot:
        assert (snapshot.count, snapshot.items.find("0005.png")) == (59, None)
    assert refresh(served, [str(corpus)]).action == "none"


def test_items_without_an_image_are_dropped_only_when_asked(served: Store, corpus: Path) -> None:
    asked: list[tuple[tuple[str, ...], str]] = []
    retrain = another_encoder(served, asked)
    delta_of(served).upsert([make_item(900)], np.ones((1, 108), np.float32))
    (corpus / "0010.png").unlink()
    with pytest.raises(FailedPreconditionError, match=r"2 served items, such as '0010\.png'.*--prune"):
        refresh(served, [str(corpus)], config=AGAIN, retrain=retrain)
    assert asked == []
    assert served.active().generation == 1
    config = RefreshConfig(action="retrain", prune=True, gates=Gates(query_count=10))
    report = refresh(served, [str(corpus)], config=config, retrain=retrain)
    assert report.reembedded is not None
    assert (report.reembedded.lost_count, report.built.count if report.built else 0) == (2, 59)


def test_an_item_that_comes_while_the_training_runs_is_not_lost(served: Store, corpus: Path) -> None:
    def retrain(corpora: Sequence[str], encoder: str) -> str:
        delta_of(served).upsert([make_item(901)], np.ones((1, 108), np.float32))
        return another_encoder(served, [])(corpora, encoder)

    with pytest.raises(FailedPreconditionError, match="item-000901"):
        refresh(served, [str(corpus)], config=AGAIN, retrain=retrain)
    assert served.active().generation == 1
    # The encoder is there; the next one goes on with it.
    asked: list[tuple[tuple[str, ...], str]] = []
    config = RefreshConfig(action="retrain", prune=True, gates=Gates(query_count=10))
    report = refresh(served, [str(corpus)], config=config, retrain=another_encoder(served, asked))
    assert report.reembedded is not None
    assert (report.reembedded.encoder, report.reembedded.lost_count, asked) == ("000002", 1, [])
    assert not list((served.root / "work").glob("retrained-*"))


def test_a_corpus_that_is_gone_stops_it_before_the_training(served: Store, corpus: Path, tmp_path: Path) -> None:
    corpus.rename(tmp_path / "moved")
    asked: list[tuple[tuple[str, ...], str]] = []
    with pytest.raises(InvalidCorpusError, match="nothing at"):
        refresh(served, [str(tmp_path / "moved")], config=AGAIN, retrain=another_encoder(served, asked))
    assert asked == []


def test_retraining_is_recommended_and_done_only_when_allowed(served: Store) -> None:
    rows = np.arange(3, dtype=np.int64)
    changes = Changes(
        kept_rows=np.arange(60), added_rows=rows, new_count=3, changed_count=0, moved_count=0, vanished_count=0,
        is_extension=True,
    )  # fmt: skip
    drift = DriftReport(old_count=60, new_count=3, tests=(), sources={}, advice="retrain", reasons=("another domain",))
    body = {"kind": "hnsw"}
    assert decide(changes, RefreshConfig(), body, drift=drift)[0] == "rebuild"
    allowed = RefreshConfig(allow_retrain=True)
    assert decide(changes, allowed, body, drift=drift) == ("retrain", "the new items have drifted (another domain)")
    assert decide(changes, RefreshConfig(action="add", allow_retrain=True), body, drift=drift)[0] == "add"
    with pytest.raises(InvalidArgumentError, match="nothing was given that could retrain"):
        refresh(served, ["x"], config=allowed)


def test_one_refresh_at_a_time(served: Store, corpus: Path) -> None:
    with (
        locked(served.root / "work" / "refresh.lock", shared=False, wait=True),
        pytest.raises(BusyError, match="another refresh"),
    ):
        refresh(served, [str(corpus)])


def test_the_command_goes_on_training_the_served_encoder(store: Store, tmp_path: Path) -> None:
    for place, numbers in (("old", range(40)), ("new", range(100, 120))):
        write_images(tmp_path / place, numbers, side=16)
    put_encoder(store, name="resnet10-w8", side=16)
    embed(store, [f"old={tmp_path / 'old'}"])
    build(store, config=BuildConfig(query_count=10))
    publish(store, gates=Gates(query_count=10))
    arguments = [f"new={tmp_path / 'new'}", "-w", str(store.root), "--action", "retrain", "--label-drop", "1"]
    settings = ["--minutes", "0.01", "--set", "batch_size=16", "--set", "precision=float32", "--set", "device=cpu"]
    result = CliRunner().invoke(refresh_commands.refresh, [*arguments, *settings], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with Snapshot.open(store.path("snapshots", store.active().snapshot)) as snapshot:
        assert (snapshot.count, snapshot.manifest.body["encoder"]) == (60, "encoders/000002")
        assert snapshot.metric is Metric.COSINE
    trained = Encoder.load(store.path("encoders", "2"), device="cpu")
    assert trained.architecture["name"] == "resnet10-w8"
    assert trained.manifest.body["metadata"]["config"]["weights"] == "000001"


@pytest.mark.parametrize("arguments", [["--action", "retrain"], ["--minutes", "1"], ["--set", "seed=1"]])
def test_a_budget_and_retraining_go_together(served: Store, corpus: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(refresh_commands.refresh, [str(corpus), "-w", str(served.root), *arguments])
    assert (result.exit_code, "--minutes" in result.output) == (2, True)


def test_beats_do_not_drift_and_long_rounds_leave_some_out() -> None:
    assert pause_s(100.0, 100.0, period_s=10) == 10
    assert pause_s(100.0, 103.5, period_s=10) == pytest.approx(6.5)
    assert pause_s(100.0, 127.0, period_s=10) == pytest.approx(3.0)


def test_rounds_survive_what_fails_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    told: list[str] = []
    failures = iter((BusyError("busy"), KeyError("gone"), None, SystemExit(0)))

    def once() -> None:
        failure = next(failures)
        if failure is not None:
            raise failure

    with pytest.raises(SystemExit):
        run_rounds(once, period_s=1, failed=told.append)
    assert told == ["busy", "internal error: KeyError: 'gone'"]


def test_sigterm_ends_in_order_also_elsewhere_than_in_the_main_thread() -> None:
    with pytest.raises(SystemExit), ended_by_sigterm(7):
        signal.raise_signal(signal.SIGTERM)
    entered = threading.Event()

    def inside() -> None:
        with ended_by_sigterm(7):
            entered.set()

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert entered.is_set()


@pytest.mark.e2e
def test_a_loop_ends_by_sigterm_and_leaves_nothing_behind(served: Store, corpus: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "vicinal",
        "refresh",
        str(corpus),
        "-w",
        str(served.root),
        "--every",
        "1h",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert '"action": "none"' in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert list((served.root / ".staging").iterdir()) == []
