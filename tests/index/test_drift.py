"""Drift: silent where nothing shifted, loud where much did, and honest about what it cannot see."""

from pathlib import Path

import numpy as np
import pytest

from index.drift import DriftReport, ShiftTest, advise, measure_drift
from index.plots import plot_drift
from index.report import print_drift
from tests.index.made_vectors import clustered
from vicinal.types import Metric


@pytest.mark.parametrize("metric", [Metric.L2, Metric.INNER_PRODUCT])
def test_items_of_the_same_kind_are_no_drift(metric: Metric) -> None:
    x_ND = clustered(4000, 16)
    fired = 0
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(4000)
        drift = measure_drift(x_ND[order[:3500]], x_ND[order[3500:]], metric=metric, seed=seed)
        fired += sum(test.shifted for test in drift.tests)
        assert drift.advice == "add"
        assert all(test.detectable > test.expected for test in drift.tests)
    assert fired <= 2


def test_another_world_asks_for_a_retrained_encoder() -> None:
    old_ND = clustered(2000, 16)
    drift = measure_drift(old_ND, clustered(400, 16, seed=9) + 3, metric=Metric.L2)
    assert drift.advice == "retrain"
    assert all(test.shifted for test in drift.tests)
    assert any("another domain" in reason for reason in drift.reasons)


def test_a_source_that_drifts_is_named() -> None:
    old_ND = clustered(2500, 16)
    far_ND = clustered(2500, 16)[:200] * 2
    new_ND = np.concatenate([clustered(2700, 16)[2500:], far_ND])
    sources = ["shop"] * 200 + ["mill"] * 200
    drift = measure_drift(old_ND, new_ND, metric=Metric.L2, sources=sources)
    assert drift.sources["mill"] > 1.5 > drift.sources["shop"]


def test_a_few_items_say_nothing() -> None:
    drift = measure_drift(clustered(500, 8), clustered(5, 8), metric=Metric.L2)
    assert (drift.advice, drift.tests) == ("add", ())
    assert "too few" in drift.reasons[0]


def made(name: str, value: float, *, shifted: bool) -> ShiftTest:
    return ShiftTest(name=name, value=value, expected=1.0, detectable=1.1, shifted=shifted)


def test_a_stale_quantiser_asks_for_a_rebuild() -> None:
    tests = [
        made("nearest-neighbor distance (KS)", 0.2, shifted=True),
        made("domain AUC", 0.6, shifted=True),
        made("quantisation error new/old", 1.22, shifted=True),
    ]
    assert advise(tests)[0] == "rebuild"
    tests[2] = made("quantisation error new/old", 1.02, shifted=True)
    assert advise(tests)[0] == "add"


def test_a_report_is_drawn_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drift = measure_drift(clustered(300, 8), clustered(60, 8), metric=Metric.L2, sources=["a"] * 60)
    plot_drift(tmp_path / "drift.png", drift.to_json())
    plot_drift(tmp_path / "few.png", DriftReport(old_count=1, new_count=1).to_json())
    assert (tmp_path / "drift.png").read_bytes()[:4] == b"\x89PNG"
    print_drift(drift)
    assert "domain AUC" in capsys.readouterr().out
