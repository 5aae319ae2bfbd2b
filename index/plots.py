"""Draws what was measured: the trade of recall and throughput, and drift."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicinal.artifact import storage_guard
from vicinal.types import JsonObject

if TYPE_CHECKING:
    from index.tune import Trial

_DRAW_S = 120.0
"""Seconds after which a picture is given up."""


def plot_trials(path: Path, trials: "Sequence[Trial]", chosen: "Trial", *, recall: float) -> None:
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


def plot_drift(path: Path, drift: JsonObject) -> None:
    """Draws what each test found beside what chance gives and what it could have seen.

    Args:
        path: PNG to write.
        drift: what was measured, as ``DriftReport.to_json`` gives it.

    Raises:
        StorageError: the disk is full or failed.
    """
    figure, axes = _figure()
    tests = drift["tests"]
    names = [str(test["name"]) for test in tests] or ["too few new items"]
    for place, test in enumerate(tests):
        value = float(test["value"])
        axes.plot([test["expected"], test["detectable"]], [place, place], color="gray", linewidth=8, alpha=0.4)
        axes.plot([value], [place], marker="o", markersize=10, color="red" if test["shifted"] else "green")
        axes.annotate(f"{value:.3f}", (value, place), textcoords="offset points", xytext=(0, 10))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("value; gray: from what chance gives to what would surely be seen; red: a shift")
    axes.set_title(f"{drift['new_count']} new items against {drift['old_count']} old ones: {drift['advice']}")
    _save(figure, path)


@contextmanager
def drift_plotter(tell: Callable[[str], None]) -> Iterator[Callable[[Path], None]]:
    """Gives what draws the JSON of a drift report as a PNG beside it, in a process that is waited for at the end.

    Loading what draws takes as long as the rest of a small refresh. A report that cannot be drawn is only told of.

    Args:
        tell: told when the picture could not be drawn.
    """
    drawing: list[subprocess.Popen[bytes]] = []
    failed: list[Path] = []

    def draw(path: Path) -> None:
        # -P: whatever lies in the folder in which the user is, is not imported.
        words = [sys.executable, "-P", "-m", "index.plots", str(path)]
        nothing = subprocess.DEVNULL
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module
                words, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
            )
        except OSError:
            failed.append(path)
        else:
            drawing.append(process)

    try:
        yield draw
    finally:
        if any(not _is_drawn(process) for process in drawing) or failed:
            tell("the drift report could not be drawn; its JSON is there")


def _is_drawn(process: "subprocess.Popen[bytes]") -> bool:
    try:
        return process.wait(_DRAW_S) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


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


if __name__ == "__main__":
    report = Path(sys.argv[1])
    plot_drift(report.with_suffix(".png"), json.loads(report.read_text(encoding="utf-8")))
