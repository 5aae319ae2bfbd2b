"""The command `vicinal health`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from serving.labels.health import Health, Leak


@click.command()
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="Where artifacts are kept.",
)
@click.option("--snapshot", default="", help="Look at this snapshot; default: the active one.")
@click.option("--labels", "name", default="", help="Also look for likely errors in this label set.")
@click.option("--split-column", default="", help="Metadata column that names the split; default: split, or folders.")
@click.option("--near-duplicate", type=float, default=0.98, show_default=True, help="Centred cosine, above 0 to 1.")
@click.option("--count", "-n", type=int, default=10, show_default=True, help="Entries to show of each kind.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of the groups, outliers and suspects.")
@click.option("--json", "as_json", is_flag=True, help="Write everything as one JSON object.")
def health(
    *,
    workspace: Path,
    snapshot: str,
    name: str,
    split_column: str,
    near_duplicate: float,
    count: int,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Find duplicates, outliers, likely label errors and leaks between splits."""
    from rich.console import Console
    from rich.progress import Progress

    from index.snapshot import Snapshot
    from serving.labels import health as checks
    from serving.labels.log import shared_log
    from vicinal.errors import InvalidArgumentError
    from vicinal.store import Store

    if not 0 < near_duplicate <= 1:
        raise InvalidArgumentError(f"--near-duplicate is {near_duplicate:g}, wanted above 0 and at most 1")
    store = Store(workspace)
    labels = {row.item_id: row.label for row in shared_log(store).labels(name) if row.label} if name else {}
    with (
        Snapshot.open(store.path("snapshots", snapshot or store.active().snapshot), verify=False) as opened,
        Progress(console=Console(stderr=True), transient=True) as bar,
    ):
        task = bar.add_task("neighbors of every item", total=opened.count)
        found = checks.check(
            opened,
            labels=labels,
            split_column=split_column,
            near_duplicate=near_duplicate,
            progress=lambda done: bar.update(task, completed=done),
        )
        where = opened.name
    if sheet is not None:
        _draw(workspace, where, found, count, sheet)
    if as_json:
        click.echo(json.dumps({"snapshot": where, **asdict(found)}))
        return
    _print(found, where, count)


def _print(found: "Health", snapshot: str, count: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "found", "worst first", title=f"{snapshot}, {found.item_count:,} items")
    for what, entries in _rows(found):
        shown = "\n".join(text for text, _ in entries[:count])
        table.add_row(what, f"{len(entries):,}", shown + ("\n..." if len(entries) > count else ""))
    Console().print(table)


def _rows(found: "Health") -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Lists what was found: a text of each entry, and the items in it."""
    return [
        ("identical", [(" = ".join(group[:4]), group) for group in found.exact_groups]),
        ("near duplicates", [(" ~ ".join(group[:4]), group) for group in found.near_groups]),
        ("outliers", [(f"{item} ({score:.1f})", [item]) for item, score in found.outliers]),
        (
            "likely label errors",
            [
                (f"{one.item_id}: {one.label}, rather {one.likely} ({one.probability:.2f})", [one.item_id])
                for one in found.suspects
            ],
        ),
        (
            "leaks between splits",
            [
                (f"{one.split}: {one.item_id} ~ {one.other_split}: {one.other_item_id}", _both(one))
                for one in found.leaks
            ],
        ),
    ]


def _both(one: "Leak") -> list[str]:
    return [one.item_id, one.other_item_id]


def _draw(workspace: Path, snapshot: str, found: "Health", count: int, path: Path) -> None:
    from vicinal.label_files import Shown, draw

    shown = [
        Shown(item_id=items[0], caption=what, beside=[(item, Path(item).name) for item in items[1:8]])
        for what, entries in _rows(found)
        for _, items in entries[:count]
    ]
    if shown:
        draw(workspace, snapshot, shown, path, title=f"{snapshot}: duplicates, outliers, suspects, leaks")
