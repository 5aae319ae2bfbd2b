"""Pictures of how good a label set is: reliability of the probabilities, and confusion."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from vicinal.artifact import storage_guard

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vicinal.client.fewshot_measures import EvaluateResult

_LABELS_SHOWN = 40


def plot_evaluation(found: "EvaluateResult", path: Path) -> None:
    """Writes a PNG with the reliability diagram and the confusion matrix.

    Args:
        found: the evaluation.
        path: file to write.

    Raises:
        StorageError: the file cannot be written.
    """
    side = min(12.0, 4.0 + 0.2 * len(found.labels))
    figure = Figure(figsize=(5 + side, max(4.0, side)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, side))
    _draw_reliability(found, left)
    _draw_confusion(found, right)
    with storage_guard(path):
        figure.savefig(path, format="png")


def _draw_reliability(found: "EvaluateResult", axes: "Axes") -> None:
    bins = [one for one in found.reliability if one.count]
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.bar(
        [one.lower for one in bins],
        [one.accuracy for one in bins],
        width=[one.upper - one.lower for one in bins],
        align="edge",
        color="#4c78a8",
        edgecolor="white",
    )
    axes.plot([one.confidence for one in bins], [one.accuracy for one in bins], "o", color="#222222", markersize=3)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"reliability, ECE {found.metrics.get('ece', 0):.3f}")


def _draw_confusion(found: "EvaluateResult", axes: "Axes") -> None:
    share_CC = found.confusion / np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(share_CC, vmin=0, vmax=1, cmap="Blues")
    if len(found.labels) <= _LABELS_SHOWN:
        places = np.arange(len(found.labels))
        axes.set_xticks(places, found.labels, rotation=90)
        axes.set_yticks(places, found.labels)
    axes.set(xlabel="said", ylabel="true")
    axes.set_title(f"confusion, balanced accuracy {found.metrics.get('balanced_accuracy', 0):.3f}")
