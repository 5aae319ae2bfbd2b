"""The options of the gates, the same for every verb that publishes."""

import functools
from collections.abc import Callable
from typing import Any

import click

_SHARE = click.FloatRange(0, 1)
_GATES: tuple[tuple[str, str, "click.ParamType[Any]", str], ...] = (
    ("--recall", "recall", _SHARE, "recall@10 on pinned queries, at least [default: 0.9]."),
    ("--p99-ms", "p99_ms", click.FloatRange(min=0), "99th percentile of a query's latency, at most."),
    ("--size-mib", "size_mib", click.FloatRange(min=0), "size of all files, at most."),
    ("--shrink", "max_shrink", _SHARE, "share of the items served now that may be gone [default: 0.5]."),
    (
        "--duplicate-recall",
        "duplicate_recall",
        _SHARE,
        "exact duplicates that find each other, at least [default: 0.9].",
    ),
    ("--twin-recall", "twin_recall", _SHARE, "images cut and lit a little differently that find their item, at least."),
    ("--label-drop", "max_label_drop", _SHARE, "accuracy that a label set may lose, at most [default: 0.02]."),
    ("--knn-accuracy", "knn_accuracy", _SHARE, "accuracy by 10 neighbors on every label set, at least."),
    ("--few-shot-accuracy", "few_shot_accuracy", _SHARE, "accuracy by 5 labels a class on every label set, at least."),
)


def gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of the gates; it gets those that were set as ``gates``, by their field's name."""

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        values = {name: given.pop(name) for _, name, _, _ in _GATES}
        return command(gates={name: value for name, value in values.items() if value is not None}, **given)

    decorated: Callable[..., Any] = run
    for flag, name, kind, text in reversed(_GATES):
        decorated = click.option(flag, name, type=kind, help=f"Gate: {text}")(decorated)
    return decorated
