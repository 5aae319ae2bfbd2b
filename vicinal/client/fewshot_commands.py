"""The commands of a shell: classify, evaluate-labels, and label, whose own commands are elsewhere."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from vicinal.client.connection import connection_options
from vicinal.client.fewshot import Classification, ClassifyResult, FittedClassifier
from vicinal.client.fewshot_measures import CalibrationTarget
from vicinal.client.label_commands import label
from vicinal.client.sync import Client
from vicinal.errors import InvalidArgumentError, VicinalError

__all__ = ["classify", "evaluate_labels", "label"]
_BATCH = 200

workspace_option = click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="For --sheet: the workspace whose snapshot names the corpora.",
)


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@connection_options
@click.option("--labels", "labels", required=True, help="Name of a stored label set, or NAME@VERSION.")
@click.option("--classifier", default="auto", show_default=True, help="auto, prototype, knn, ridge, blend, logistic.")
@click.option("--level", "conformal_level", type=float, default=0.9, show_default=True, help="Of the conformal sets.")
@click.option("--evidence", "evidence_count", type=int, default=3, show_default=True, help="Examples to show for each.")
@click.option("--transductive", is_flag=True, help="Refine the answers by what the images have in common.")
@click.option("--calibration", default="", help="Take the threshold of unknown from this calibration.")
@click.option("--item-id", is_flag=True, help="IMAGEs are item ids even if files of that name exist.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of the images and what speaks for them.")
@workspace_option
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def classify(
    *,
    client: Client,
    images: tuple[str, ...],
    labels: str,
    item_id: bool,
    sheet: Path | None,
    workspace: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images (files or item ids) by the items of a label set."""
    queries = [_query(image, item_id=item_id) for image in images]
    name, _, version = labels.partition("@")
    if version and not version.isdecimal():
        raise InvalidArgumentError(f"--labels {labels!r}: the version is a number, such as {name}@3")
    support: Any = (name, int(version)) if version else name
    found = [
        client.classify(queries[start : start + _BATCH], support=support, **options)
        for start in range(0, len(queries), _BATCH)
    ]
    results = [one for part in found for one in part.results]
    if sheet is not None:
        _draw(workspace, found[0], images, queries, results, sheet)
    if as_json:
        click.echo(json.dumps(_json(found[0], images, results)))
        return
    table = Table("image", "label", "p", "set", "unknown", "evidence", title=_title(found[0].classifier))
    for image, one in zip(images, results, strict=True):
        table.add_row(image, *_row(one))
    Console().print(table)
    if sheet is not None:
        click.echo(f"drawn in {sheet}")


@click.command("evaluate-labels")
@click.argument("name")
@connection_options
@click.option("--held-out", default="", help="Evaluate on this label set; default: leave-one-out on NAME.")
@click.option("--classifier", default="auto", show_default=True, help="A name that `vicinal classify` takes.")
@click.option("--depth", type=int, default=10, show_default=True, help="k of recall@k, precision@k, MAP@k, NDCG@k.")
@click.option("--calibration", default="", help="Take the threshold of unknown from this calibration.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a PNG: reliability and confusion.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def evaluate_labels(*, client: Client, name: str, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Measure a label set: accuracy, calibration, retrieval, confusion."""
    found = client.evaluate(name, **{key: value for key, value in options.items() if value})
    if plot is not None:
        # By name: the light client neither needs nor imports what draws.
        importlib.import_module("vicinal.label_plots").plot_evaluation(found, plot)
    if as_json:
        value = {
            "metrics": dict(found.metrics),
            "labels": found.labels,
            "confusion": found.confusion.tolist(),
            "classifier": found.classifier.name,
            "snapshot": found.snapshot.name,
        }
        click.echo(json.dumps(value))
        return
    table = Table("metric", "value", title=_title(found.classifier))
    for metric, number in sorted(found.metrics.items()):
        table.add_row(metric, f"{number:.4f}")
    Console().print(table)
    if plot is not None:
        click.echo(f"drawn in {plot}")


@click.command()
@click.argument("name")
@click.argument("calibration")
@connection_options
@click.option("--target", "targets", multiple=True, help="NAME=METRIC or NAME=METRIC:VALUE; the first is the default.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def calibrate(*, client: Client, name: str, calibration: str, targets: tuple[str, ...], as_json: bool) -> None:
    """Fit distance thresholds to label set NAME and keep them as CALIBRATION, for `unknown`."""
    found = client.calibrate(calibration, name, targets=[_target(text) for text in targets])
    if as_json:
        value = {
            "name": found.name,
            "fingerprint": found.fingerprint,
            "default_target": found.default_target,
            "thresholds": [asdict(one) for one in found.thresholds],
        }
        click.echo(json.dumps(value))
        return
    table = Table("target", "class", "score", "value", "reached", "rejects", title=found.name)
    for one in found.thresholds:
        reached = "yes" if one.reached else "no"
        table.add_row(
            one.target,
            one.label or "(all)",
            f"{one.score:.4f}",
            f"{one.value:.3f}",
            reached,
            f"{one.rejection_rate:.3f}",
        )
    Console().print(table)


label.add_command(calibrate)


def _target(text: str) -> CalibrationTarget:
    name, _, rest = text.partition("=")
    metric, _, value = rest.partition(":")
    if not name or not metric:
        raise InvalidArgumentError(f"--target {text!r} is not NAME=METRIC or NAME=METRIC:VALUE")
    try:
        return CalibrationTarget(name=name, metric=metric, value=float(value) if value else None)
    except ValueError as error:
        raise InvalidArgumentError(f"--target {text!r}: {value!r} is not a number") from error


def _query(image: str, *, item_id: bool) -> str | bytes:
    if item_id or not Path(image).is_file():
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {image}: {error.strerror or error}") from error


def _title(classifier: FittedClassifier) -> str:
    text = f"{classifier.name}, {classifier.example_count} examples of {classifier.class_count} classes"
    if classifier.accuracy is None:
        return text
    low, high = classifier.accuracy_interval
    return f"{text}; leave-one-out accuracy {classifier.accuracy:.3f} ({low:.3f} to {high:.3f})"


def _row(one: Classification | VicinalError) -> tuple[str, str, str, str, str]:
    if isinstance(one, VicinalError):
        return f"[red]{one.message}[/red]", "", "", "", ""
    unknown = f"{'yes' if one.unknown else 'no'} ({one.unknown_score:.2f} / {one.unknown_threshold:.2f})"
    members = ", ".join(one.conformal_set[:5]) + (", ..." if len(one.conformal_set) > 5 else "")
    shown = ", ".join(f"{near.label or 'none'}: {near.item_id or near.example}" for near in one.evidence)
    return one.label, f"{one.probability:.3f}", members, unknown, shown


def _json(
    found: ClassifyResult, images: tuple[str, ...], results: list[Classification | VicinalError]
) -> dict[str, Any]:
    return {
        "results": [{"image": image, **_one_json(one)} for image, one in zip(images, results, strict=True)],
        "classifier": found.classifier.name,
        "accuracy": found.classifier.accuracy,
        "label_set_version": found.label_set_version,
        "snapshot": found.snapshot.name,
    }


def _one_json(one: Classification | VicinalError) -> dict[str, Any]:
    if isinstance(one, VicinalError):
        return {"error": {"reason": one.reason, "message": one.message}}
    return {
        "label": one.label,
        "probability": one.probability,
        "probabilities": dict(one.probabilities),
        "conformal_set": one.conformal_set,
        "unknown": one.unknown,
        "unknown_score": one.unknown_score,
        "unknown_threshold": one.unknown_threshold,
        "evidence": [{"item_id": near.item_id, "label": near.label, "score": near.score} for near in one.evidence],
    }


def _draw(
    workspace: Path,
    found: ClassifyResult,
    images: tuple[str, ...],
    queries: list[str | bytes],
    results: list[Classification | VicinalError],
    path: Path,
) -> None:
    # By name: the light client neither needs nor imports what reads images.
    files = importlib.import_module("vicinal.label_files")
    rows = [
        files.Shown(
            item_id="" if isinstance(query, bytes) else query,
            content=query if isinstance(query, bytes) else b"",
            caption=f"{one.label} {one.probability:.2f}",
            beside=[(near.item_id, near.label or "none") for near in one.evidence if near.item_id],
        )
        for query, one in zip(queries, results, strict=True)
        if isinstance(one, Classification)
    ]
    files.draw(workspace, found.snapshot.name, rows, path, title=f"{len(images)} images")
