"""Pictures of a run for people: curves, and a grid of the views that the network saw."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from trainer.cache import ImageCache
from trainer.views import ViewMaker
from trainer.watch import History
from vicinal.artifact import storage_guard
from vicinal.modalities.image.preview import grid
from vicinal.types import U8Array

CURVES, VIEWS = "curves.png", "views.png"
_ROWS = 8


def draw_curves(history: History, path: Path, *, title: str) -> None:
    """Writes a PNG of loss terms, health and online accuracy over the steps.

    Args:
        history: of the run; at least one report.
        path: file to write.
        title: text above.

    Raises:
        StorageError: the file cannot be written.
    """
    steps = [report.step for report in history.reports]
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3)
    figure.suptitle(title)
    for name in history.reports[-1].terms:
        axes[0, 0].plot(steps, [report.terms[name] for report in history.reports], label=name)
    axes[0, 0].set_title("loss terms")
    axes[0, 0].legend(fontsize=8)
    panels = (
        (axes[0, 1], "std", "embedding std (1 spread, 0 collapsed)"),
        (axes[0, 2], "rank", "effective rank"),
        (axes[1, 0], "alignment", "distance of two views of an image"),
        (axes[1, 1], "uniformity", "uniformity (lower is more even)"),
    )
    for axis, name, text in panels:
        axis.plot(steps, [getattr(report.health, name) for report in history.reports])
        axis.set_title(text)
    _draw_accuracy(axes[1, 2], history, steps)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_xlabel("step")
    with storage_guard(path):
        figure.savefig(path, dpi=90)


def _draw_accuracy(axis: Any, history: History, steps: list[int]) -> None:
    """Draws kNN and linear probe with the same of the baselines as dashes, or the speed where there are no labels."""
    if not history.online:
        axis.set_title("views a second")
        axis.plot(steps, [report.views_per_second for report in history.reports])
        return
    axis.set_title("accuracy on labels, %")
    at = [one["step"] for one in history.online]
    for measure, color in (("knn", "tab:blue"), ("linear", "tab:orange")):
        axis.plot(at, [100 * one[measure] for one in history.online], "o-", color=color, label=measure)
        if history.readout is not None:
            axis.plot(at[-1:], [100 * getattr(history.readout, measure)], "*", color=color, label=f"{measure}, readout")
        for name, accuracy in history.baselines.items():
            value = 100 * getattr(accuracy, measure)
            axis.axhline(value, linestyle="--", color=color, alpha=0.5)
            axis.annotate(f"{name}, {measure}", (steps[0], value), fontsize=7)
    axis.legend(fontsize=8)


def draw_views(cache: ImageCache, maker: ViewMaker, path: Path, *, seed: int) -> None:
    """Writes a PNG with a few images, each followed by views of it as the network saw them.

    Args:
        cache: the images.
        maker: draws the views.
        path: file to write.
        seed: of the choice and the views.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = np.sort(np.random.default_rng([seed, 4]).permutation(len(cache.x_NCHW))[:_ROWS])
    x_BCHW = torch.from_numpy(np.asarray(cache.x_NCHW[rows]))
    generator = torch.Generator().manual_seed(seed)
    sets = [maker(x_BCHW, rows_B=torch.from_numpy(rows), size=x_BCHW.shape[-1], generator=generator) for _ in range(2)]
    columns: list[list[U8Array]] = [list(x_BCHW.numpy())]
    for views in sets:
        columns += [_pixels(view, maker) for view in (*views.full, *views.local)]
    tiles = [column[row] for row in range(len(rows)) for column in columns]
    grid(tiles, path, columns=len(columns), title="Images (left) and views of them")


def _pixels(view_BCHW: torch.Tensor, maker: ViewMaker) -> list[U8Array]:
    std_C = torch.tensor(maker.std)[:, None, None]
    mean_C = torch.tensor(maker.mean)[:, None, None]
    return list(((view_BCHW * std_C + mean_C) * 255).round().clamp(0, 255).to(torch.uint8).numpy())
