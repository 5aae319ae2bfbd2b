"""An embed job on several processes, each with its own shards."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from index.embed import EmbedOptions, EmbedReport, embed
from index.embed_launch import Rank, hold_rank, rank_of
from tests.support.corpora import add_encoder, fill, image_bytes
from vicinal.embeddings import Embeddings
from vicinal.errors import BusyError, FailedPreconditionError, InvalidConfigError
from vicinal.store import Store

OPTIONS = EmbedOptions(shard_size=5, batch_size=4, workers=2, now=datetime(2026, 1, 1, tzinfo=UTC), wait_s=0.3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "workspace")
    add_encoder(store)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = fill(tmp_path / "images", 33)
    for number in range(6):
        (folder / f"copy{number}.png").write_bytes(image_bytes(number * 3))
    return folder


def run_rank(store: Store, folder: Path, number: int, count: int, monkeypatch: pytest.MonkeyPatch) -> EmbedReport:
    with monkeypatch.context() as patch:
        patch.setenv("RANK", str(number))
        patch.setenv("WORLD_SIZE", str(count))
        return embed(store, [str(folder)], options=OPTIONS)


def test_ranks_together_give_what_one_process_gives(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = embed(store, [str(folder)], options=OPTIONS)

    reports = [run_rank(store, folder, number, 3, monkeypatch) for number in (2, 1, 0)]

    assert [report.version for report in reports] == [None, None, "000002"]
    assert (reports[2].count, reports[2].unique_count) == (alone.count, alone.unique_count) == (39, 33)
    one, many = (Embeddings.open(store.path("embeddings", version)) for version in ("000001", "000002"))
    for name in ("items.arrow", "items.lookup.npy", "quarantine.jsonl"):
        assert (one.path / name).read_bytes() == (many.path / name).read_bytes()
    np.testing.assert_allclose(one.vectors_ND, many.vectors_ND, atol=1e-6)
    # Two ranks may both have met a content; all its items have one vector nevertheless.
    for number in range(6):
        rows = [many.items.row(f"copy{number}.png"), many.items.row(f"class{number * 3 % 2}/{number * 3:04d}.png")]
        assert many.vectors_ND[rows[0]].tobytes() == many.vectors_ND[rows[1]].tobytes()
    assert not list((store.root / "work").iterdir())


def test_rank_0_says_which_ranks_are_missing_and_keeps_what_is_finished(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FailedPreconditionError, match=r"ranks \[1, 2\] of 3 do not run"):
        run_rank(store, folder, 0, 3, monkeypatch)
    assert store.versions("embeddings") == []
    run_rank(store, folder, 1, 3, monkeypatch)
    with pytest.raises(FailedPreconditionError, match=r"ranks \[2\] of 3"):
        run_rank(store, folder, 0, 3, monkeypatch)
    run_rank(store, folder, 2, 3, monkeypatch)
    last = run_rank(store, folder, 0, 3, monkeypatch)
    assert (last.count, last.embedded_count) == (39, 0)


def test_rank_0_waits_for_a_rank_that_is_running(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FailedPreconditionError):
        run_rank(store, folder, 0, 2, monkeypatch)
    (directory,) = (store.root / "work").iterdir()
    errors: list[BaseException] = []

    def late() -> None:
        with hold_rank(directory, Rank(number=1, count=2)):
            released.wait(1.5)  # longer than rank 0 would wait for one that does not run

    def first() -> None:
        try:
            embed(store, [str(folder)], options=OPTIONS)
        except FailedPreconditionError as error:
            errors.append(error)

    released = threading.Event()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    threads = [threading.Thread(target=late), threading.Thread(target=first)]
    threads[0].start()
    threads[1].start()
    threads[1].join(1.0)
    assert threads[1].is_alive()
    assert not errors
    released.set()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 1


def test_the_same_rank_twice_is_refused(tmp_path: Path) -> None:
    with hold_rank(tmp_path, Rank(number=1, count=2)):
        with hold_rank(tmp_path, Rank(number=0, count=2)):
            pass
        with pytest.raises(BusyError), hold_rank(tmp_path, Rank(number=1, count=2)):
            pass


def test_the_rank_comes_from_the_launcher() -> None:
    assert rank_of({}) == Rank(number=0, count=1, local=0)
    assert rank_of({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Rank(number=3, count=8, local=1)
    assert rank_of({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}) == Rank(number=2, count=4, local=0)
    with pytest.raises(InvalidConfigError, match="not a whole number"):
        rank_of({"RANK": "x", "WORLD_SIZE": "8"})
    with pytest.raises(InvalidConfigError, match="below the count"):
        rank_of({"RANK": "8", "WORLD_SIZE": "8"})


@pytest.mark.e2e
@pytest.mark.slow
def test_torchrun_embeds_on_two_processes(store: Store, folder: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launcher, "vicinal", "embed", str(folder), "-w", str(store.root), "--shard-size", "5", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    assert run.returncode == 0, run.stderr
    assert '"embeddings": "000001"' in run.stdout
    assert Embeddings.open(store.path("embeddings", "1")).count == 39
