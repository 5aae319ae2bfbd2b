"""Draws what was measured: the trade of recall and throughput, and drift."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from index.drift import DriftReport
from index.tune import Trial
from vicinal.artifact import storage_guard


def plot_trials(path: Path, trials: Sequence[Trial], chosen: Trial, *, recall: float) -> None:
    """Draws each trial's curve, the target and the choice.

    Args:
        path: PNG to write.
        trials: what was measured.
        chosen: one of them.
        recall: recall wanted.

    Raises:
        StorageError: the disk is full or failed.
    """
    figure, axes = _figure()
    for trial in trials:
        if not trial.curve:
            continue
        label = trial.label + (" (chosen)" if trial is chosen else "")
        recalls = [max(1 - point.recall, 1e-4) for point in trial.curve]
        speeds = [point.queries_per_second for point in trial.curve]
        axes.plot(recalls, speeds, marker="o", linewidth=3 if trial is chosen else 1, label=label)
    axes.axvline(max(1 - recall, 1e-4), color="gray", linestyle="--", label=f"recall {recall:g}")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_yscale("log")
    axes.set_xlabel("1 - recall@10 on held-out queries")
    axes.set_ylabel("queries per second, measured on the sample")
    axes.legend()
    axes.grid(visible=True, which="both", alpha=0.3)
    _save(figure, path)


def plot_drift(path: Path, drift: DriftReport) -> None:
    """Draws what each test found beside what chance gives and what it could have seen.

    Args:
        path: PNG to write.
        drift: what was measured.

    Raises:
        StorageError: the disk is full or failed.
    """
    figure, axes = _figure()
    names = [test.name for test in drift.tests] or ["too few new items"]
    for place, test in enumerate(drift.tests):
        axes.plot([test.expected, test.detectable], [place, place], color="gray", linewidth=8, alpha=0.4)
        axes.plot([test.value], [place], marker="o", markersize=10, color="red" if test.shifted else "green")
        axes.annotate(f"{test.value:.3f}", (test.value, place), textcoords="offset points", xytext=(0, 10))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("value; gray: from what chance gives to what would surely be seen; red: a shift")
    axes.set_title(f"{drift.new_count} new items against {drift.old_count} old ones: {drift.advice}")
    _save(figure, path)


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    with storage_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
