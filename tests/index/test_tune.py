"""The index that chooses itself: by measuring, within memory and latency, and it says why."""

import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from index import build as builder
from index import commands, tune
from index.build import BuildConfig, build
from index.curve import CurvePoint
from index.evaluate import Queries
from index.quantities import parse_milliseconds, parse_size
from index.snapshot import Snapshot
from index.tune import Trial, Wishes, judge, reason_for
from tests.index.made_vectors import AddEmbeddings, clustered, put_embeddings
from vicinal.errors import FailedPreconditionError, InvalidArgumentError, InvalidConfigError
from vicinal.store import Store
from vicinal.types import F32Array, I64Array, Metric


@pytest.fixture
def embedded(store: Store, add_embeddings: AddEmbeddings, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(builder, "_FLAT_BYTES", 1)
    monkeypatch.setattr(tune, "SAMPLE_FLOATS", 1 << 15)
    add_embeddings(clustered(4000, 16), metric=Metric.COSINE)
    return store


def test_auto_measures_kinds_on_held_out_queries_and_explains_its_choice(embedded: Store) -> None:
    report = build(embedded, config=BuildConfig(recall=0.95, query_count=50))
    assert {trial.kind for trial in report.trials} == {"flat", "hnsw", "hnsw_f16", "ivf_pq_fastscan"}
    chosen = [trial for trial in report.trials if trial.kind == report.kind and trial.params == report.params]
    assert chosen
    assert not chosen[0].refused
    assert "queries/s expected at recall" in report.reason
    assert (embedded.root / "reports" / f"build-{report.version}.png").read_bytes()[:4] == b"\x89PNG"
    assert report.recall >= 0.95
    with Snapshot.open(embedded.path("snapshots", report.version)) as snapshot:
        assert snapshot.manifest.body["reason"] == report.reason
    assert not list((embedded.root / "work").iterdir())


def test_a_kind_that_cannot_hold_the_vectors_is_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_FLAT_BYTES", 1)
    put_embeddings(store, clustered(2000, 16) * np.float32(1e5))
    report = build(store, config=BuildConfig(recall=0.9, query_count=20))
    refused = {trial.kind: trial.refused for trial in report.trials}
    assert "half precision" in refused["hnsw_f16"]
    assert report.kind != "hnsw_f16"


def test_memory_decides_for_a_coded_kind(embedded: Store) -> None:
    report = build(embedded, config=BuildConfig(recall=0.5, memory_bytes=4000 * 30, query_count=20))
    assert report.kind in {"flat_sq8", "ivf_pq", "ivf_sq8", "ivf_pq_fastscan"}
    refused = {trial.kind: trial.refused for trial in report.trials}
    assert "MiB" in refused["flat_f16"]
    assert "MiB" not in refused["flat_sq8"]
    assert any(trial.kind == "flat" and "needs" in trial.refused for trial in report.trials)


def test_wishes_that_nothing_fulfils_are_refused_with_what_there_is(embedded: Store) -> None:
    with pytest.raises(FailedPreconditionError, match=r"no kind of index fulfils.*flat: needs 0 MiB"):
        build(embedded, config=BuildConfig(memory_bytes=100, query_count=20))
    with pytest.raises(FailedPreconditionError, match="ms"):
        build(embedded, config=BuildConfig(latency_ms=1e-6, query_count=20))
    assert embedded.versions("snapshots") == []


def test_a_small_corpus_is_flat_without_trials(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(100, 8))
    report = build(store, config=BuildConfig(query_count=10))
    assert (report.kind, report.trials) == ("flat", ())


def test_options_that_cannot_take_effect_are_refused(store: Store, add_embeddings: AddEmbeddings) -> None:
    add_embeddings(clustered(100, 8))
    for config in (
        BuildConfig(params={"link_count": 8}),
        BuildConfig(kind="flat", latency_ms=1),
        BuildConfig(recall=0),
        BuildConfig(query_count=1),
    ):
        with pytest.raises(InvalidArgumentError):
            build(store, config=config)


def point(effort: int, recall: float, speed: float) -> CurvePoint:
    return CurvePoint(effort=effort, recall=recall, p50_us=50, p99_us=100, queries_per_second=speed)


def test_a_trial_is_judged_by_its_cheapest_effort_that_is_good_enough() -> None:
    curve = (point(8, 0.9, 900), point(16, 0.97, 500), point(32, 0.999, 200))
    trial = judge(Trial(kind="hnsw", curve=curve), growth=2.0, wishes=Wishes(recall=0.95, latency_ms=0.3))
    assert (trial.effort, trial.queries_per_second, trial.p99_ms, trial.refused) == (16, 250, 0.2, "")
    slow = judge(Trial(kind="hnsw", curve=curve), growth=4.0, wishes=Wishes(recall=0.95, latency_ms=0.3))
    assert slow.refused == "needs 0.40 ms"
    poor = judge(Trial(kind="hnsw", curve=curve[:2]), growth=1.0, wishes=Wishes(recall=0.99))
    assert poor.refused == "reaches recall 0.9700"
    assert "nothing else" in reason_for(trial, [trial, poor])


@pytest.mark.parametrize(("text", "size"), [("2GiB", 2 << 30), ("1.5 MB", 1_500_000), ("100", 100), ("3kib", 3072)])
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_times_are_read_and_nonsense_refused() -> None:
    assert (parse_milliseconds("5ms"), parse_milliseconds("250 us"), parse_milliseconds("2s")) == (5, 0.25, 2000)
    for wrong in ("5", "ms", "-1ms", "0ms", "5 parsec"):
        with pytest.raises(InvalidConfigError, match="such as 5ms"):
            parse_milliseconds(wrong)


def test_the_command_prints_what_was_tried(embedded: Store) -> None:
    arguments = ["-w", str(embedded.root), "--recall", "0.9", "--memory", "1GiB", "--latency", "10s"]
    result = CliRunner().invoke(commands.build, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "ivf_pq_fastscan" in result.output
    assert "held-out" in result.output


def test_sample_and_queries_do_not_overlap(tmp_path: Path) -> None:
    x_ND = clustered(500, 8)
    sample_ND, queries = tune._sample(x_ND, metric=Metric.L2, seed=0)
    seen = {row.tobytes() for row in sample_ND}
    assert not any(row.tobytes() in seen for row in queries.x_QD)
    assert len(np.unique(sample_ND, axis=0)) == len(sample_ND)


def test_the_nearly_fastest_are_measured_again_in_turn() -> None:
    asked: list[str] = []

    def tried(name: str, *, first: float, wait_s: float) -> tune._Tried:
        def search(x_QD: F32Array, effort: int) -> I64Array:
            asked.append(f"{name} at {effort}")
            time.sleep(wait_s)
            return np.zeros((len(x_QD), 1), np.int64)

        return tune._Tried(Trial(kind=name, effort=7, queries_per_second=first), search=search, growth=2.0)

    # Measured once, a noisy moment made the faster one the slower.
    rivals = [
        tried("a", first=1000, wait_s=0.02),
        tried("b", first=900, wait_s=0.005),
        tried("c", first=100, wait_s=0),
    ]
    x_QD = np.zeros((10, 4), np.float32)
    tune._measure_again(rivals, Queries(x_QD=x_QD, edge_Q=np.zeros(10, np.float32), neighbor_count=1, how=""))
    assert asked == ["a at 7", "b at 7"] * 5
    assert rivals[0].trial.queries_per_second < 10 / 0.02 / 2 < rivals[1].trial.queries_per_second
    assert rivals[2].trial.queries_per_second == 100
