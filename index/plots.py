"""Draws the measured trade of recall and throughput as a PNG."""

from collections.abc import Sequence
from pathlib import Path

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes half a second
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for trial in trials:
        if not trial.curve:
            continue
        links = trial.params.get("link_count")
        label = trial.kind + (f" M={links}" if links else "") + (" (chosen)" if trial is chosen else "")
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
    with storage_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
