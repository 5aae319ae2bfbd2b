"""The embed job when it dies in the middle: it goes on, and ends as if nothing had happened."""

import resource
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from index.embed import EmbedOptions, EmbedReport, embed
from index.embed_rank import Totals
from tests.support.corpora import add_encoder, fill, image_bytes
from vicinal.embeddings import Embeddings
from vicinal.encoder import Encoder
from vicinal.errors import BusyError, StorageError
from vicinal.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = EmbedOptions(shard_size=7, batch_size=4, now=NOW, workers=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    return store


def opened(store: Store, report: EmbedReport) -> Embeddings:
    assert report.version is not None
    return Embeddings.open(store.path("embeddings", report.version))


def files(store: Store, version: str) -> dict[str, bytes]:
    folder = store.path("embeddings", version)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


class StopError(Exception):
    """The test's own way to end a run in the middle."""


def test_a_run_that_was_ended_goes_on_and_ends_byte_for_byte_the_same(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 40)
    (folder / "copy.png").write_bytes(image_bytes(1))
    (folder / "bad.png").write_text("no")
    whole = embed(store, [str(folder)], options=SMALL)

    def stop_at(count: int):
        def progress(totals: Totals) -> None:
            if totals.done >= count:
                raise StopError

        return progress

    for count in (1, 9, 16, 40):
        with pytest.raises(StopError):
            embed(store, [str(folder)], options=SMALL, progress=stop_at(count))
    seen: list[Totals] = []
    resumed = embed(store, [str(folder)], options=SMALL, progress=seen.append)

    assert seen[0].resumed >= 35
    assert resumed.version != whole.version
    assert files(store, str(resumed.version)) == files(store, str(whole.version))


def test_a_torn_shard_is_made_again(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 20)
    whole = embed(store, [str(folder)], options=SMALL)
    with pytest.raises(StopError):
        embed(store, [str(folder)], options=SMALL, progress=_stop_when_done)
    shard = next((store.root / "work").rglob("000001.npz"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    resumed = embed(store, [str(folder)], options=SMALL)

    assert files(store, str(resumed.version)) == files(store, str(whole.version))


def _stop_when_done(totals: Totals) -> None:
    if totals.done == totals.total:
        raise StopError


def test_files_that_came_while_the_job_was_dead_are_taken_in(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 20)
    with pytest.raises(StopError):
        embed(store, [str(folder)], options=SMALL, progress=_stop_when_done)
    fill(folder, 4, start=200)

    report = embed(store, [str(folder)], options=SMALL)

    # What the dead run had embedded is taken over, though every shard has other rows now.
    assert (report.count, report.embedded_count) == (24, 4)
    encoder = Encoder.load(store.path("encoders", "latest"))
    wanted, _ = encoder.embed_contents([image_bytes(202)])
    found = opened(store, report)
    np.testing.assert_allclose(found.vectors_ND[found.items.row("class0/0202.png")], wanted[0], atol=1e-6)


def test_a_run_that_died_after_its_commit_does_not_commit_twice(store: Store, tmp_path: Path, monkeypatch) -> None:
    folder = fill(tmp_path / "images", 9)
    with monkeypatch.context() as patch:
        patch.setattr("index.embed._clean", lambda _: (_ for _ in ()).throw(StopError))
        with pytest.raises(StopError):
            embed(store, [str(folder)], options=SMALL)
    assert store.versions("embeddings") == ["000001"]

    report = embed(store, [str(folder)], options=SMALL)

    assert (report.version, report.count, report.embedded_count) == ("000001", 9, 0)
    assert not list((store.root / "work").iterdir())


def test_the_same_job_twice_at_once_is_refused(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 5)

    def again(_: Totals) -> None:
        embed(store, [str(folder)], options=SMALL)

    with pytest.raises(BusyError, match="another process"):
        embed(store, [str(folder)], options=SMALL, progress=again)


def test_a_full_disk_is_a_storage_error_and_the_job_goes_on_when_there_is_room(store: Store, tmp_path: Path) -> None:
    folder = fill(tmp_path / "images", 60)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            embed(store, [str(folder)], options=EmbedOptions(shard_size=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.versions("embeddings") == []

    report = embed(store, [str(folder)], options=EmbedOptions(shard_size=8))
    assert (report.count, report.embedded_count) == (60, 0)
