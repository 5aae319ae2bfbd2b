"""An evaluation of an encoder for people: a table, a picture, a JSON file."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vicinal.artifact import storage_guard
from vicinal.types import JsonObject

ROWS = {
    "frozen": "frozen encoder, logistic regression",
    "centroid": "frozen encoder, class means",
    "scratch": "same network from scratch",
    "pixels": "raw pixels",
    "random": "random encoder",
}
"""Rows of the few-shot table: what is on the labels of each."""
_COLORS = dict(zip(ROWS, ("tab:blue", "tab:cyan", "tab:red", "tab:gray", "tab:olive"), strict=True))


def table(result: JsonObject) -> list[str]:
    """Returns the lines of a table of what ``evaluate`` found, in percent."""
    counts = result["counts"]
    lines = [f"{counts['train']} labelled images, {counts['test']} queries, {counts['classes']} classes", ""]
    lines.append(f"{'all labels':38}{'kNN':>12}{'linear':>12}")
    lines += [
        f"{name:38}{100 * result['knn'][name]:11.1f}%{100 * result['linear'][name]:11.1f}%" for name in result["knn"]
    ]
    if not (shots := result["shots"]):
        return lines
    head = "".join(f"{count:>14}" for count in shots)
    lines += ["", f"{'labels a class':38}{head}"]
    for name, text in ROWS.items():
        if all(name in row for row in shots.values()):
            lines.append(f"{text:38}" + "".join(_cell(row, name) for row in shots.values()))
    draws = next(iter(shots.values()))["draws"]
    lines.append(f"mean and deviation over {', '.join(f'{count} draws ({name})' for name, count in draws.items())}")
    return lines


def _cell(row: dict[str, Any], name: str) -> str:
    cell = f"{100 * row[name]:.1f}% ± {100 * row['std'][name]:.1f}"
    return f"{cell:>14}"


def write(result: JsonObject, path: Path, *, title: str) -> None:
    """Writes a PNG, and the numbers as JSON beside it.

    Args:
        result: of ``evaluate``.
        path: of the PNG; the JSON has its name with ``.json``.
        title: text above the picture.

    Raises:
        StorageError: a file cannot be written.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=(2, 3))
    figure.suptitle(title)
    _draw_bars(bars, result)
    _draw_shots(lines, result["shots"])
    with storage_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90, format="png")
        path.with_suffix(".json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def _draw_bars(axis: Any, result: JsonObject) -> None:
    names = list(result["knn"])
    for number, measure in enumerate(("knn", "linear")):
        places = [place + 0.4 * number for place in range(len(names))]
        drawn = axis.bar(places, [100 * result[measure][name] for name in names], width=0.38, label=measure)
        axis.bar_label(drawn, fmt="%.1f", fontsize=8)
    axis.set_xticks([place + 0.2 for place in range(len(names))], names)
    axis.set_title("all labels: accuracy, %")
    axis.legend(fontsize=8, loc="lower right")


def _draw_shots(axis: Any, shots: JsonObject) -> None:
    axis.set_title("few labels: accuracy, %, with the deviation over draws")
    axis.set_xlabel("labels a class")
    if not shots:
        return
    counts = sorted(shots, key=int)
    for name, text in ROWS.items():
        known = [count for count in counts if name in shots[count]]
        if known:
            values = [100 * shots[count][name] for count in known]
            spread = [100 * shots[count]["std"][name] for count in known]
            at = [int(count) for count in known]
            axis.errorbar(at, values, yerr=spread, marker="o", capsize=3, label=text, color=_COLORS[name])
    axis.set_xscale("log")
    axis.set_xticks([int(count) for count in counts], counts)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
