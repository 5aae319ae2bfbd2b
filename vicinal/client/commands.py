"""The commands of a shell: query, snapshots."""

import importlib
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from vicinal.client.connection import connection_options
from vicinal.client.results import SearchResult, Snapshot
from vicinal.client.sync import Client
from vicinal.errors import InvalidArgumentError


@click.command()
@click.argument("query")
@connection_options
@click.option("--neighbors", "-n", "neighbor_count", type=int, default=10, show_default=True, help="Neighbors wanted.")
@click.option("--item-id", is_flag=True, help="QUERY is an item id even if a file of that name exists.")
@click.option("--effort", type=int, help="Search effort of the index kind.")
@click.option("--target-recall", type=float, help="Recall wanted, above 0 and at most 1; 1 is exact.")
@click.option("--min-score", type=float, help="Keep only neighbors with at least this score.")
@click.option("--exclude-duplicates", is_flag=True, help="One item of each set with identical content.")
@click.option("--snapshot", default="", help="Answer from this snapshot instead of the active one.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of the neighbors; reads their corpora.")
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="For --sheet: the workspace whose snapshot names the corpora.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def query(
    *,
    client: Client,
    query: str,
    item_id: bool,
    sheet: Path | None,
    workspace: Path,
    as_json: bool,
    snapshot: str,
    **options: Any,
) -> None:
    """Find the neighbors of QUERY: the path of an image, or the id of an item."""
    wanted: str | bytes = query
    if not item_id and Path(query).is_file():
        try:
            wanted = Path(query).read_bytes()
        except OSError as error:
            raise InvalidArgumentError(f"cannot read {query}: {error.strerror or error}") from error
    given: Any = {name: value for name, value in options.items() if value is not None}
    found = client.search(wanted, snapshot=snapshot, **given)
    if sheet is not None:
        # By name: the light client neither needs nor imports what reads images.
        write_sheet = importlib.import_module("vicinal.sheets").write_sheet
        write_sheet(workspace, found, query=wanted, path=sheet)
    if as_json:
        click.echo(json.dumps(_result_json(found)))
        return
    table = Table("rank", "item", "score", title=f"{found.snapshot.name} ({found.plan.strategy})")
    for rank, (name, score) in enumerate(found, start=1):
        table.add_row(str(rank), name, f"{score:.4f}")
    Console().print(table)
    if sheet is not None:
        click.echo(f"neighbors drawn in {sheet}")


@click.command()
@click.argument("activate", required=False, metavar="[NAME]")
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def snapshots(*, client: Client, activate: str | None, as_json: bool) -> None:
    """List the snapshots of a server; with NAME, such as snapshots/000007, put that one in service.

    Exits 0 only when the server answers and has an active snapshot.
    """
    if activate:
        ref = client.activate_snapshot(activate)
        value = {"snapshot": ref.name, "fingerprint": ref.fingerprint, "generation": ref.generation}
        click.echo(json.dumps(value) if as_json else f"{ref.name} is active (generation {ref.generation})")
        return
    serving = client.get_active_snapshot()
    found = list(_all_snapshots(client))
    if as_json:
        live = {"live_item_count": serving.live_item_count, "pending_item_count": serving.pending_item_count}
        click.echo(json.dumps({"active": serving.name, **live, "snapshots": [_snapshot_json(one) for one in found]}))
        return
    table = Table("snapshot", "items", "dim", "metric", "kind", "recall", "MiB", "built", "encoder")
    for one in found:
        row = _snapshot_json(one)
        table.add_row(
            one.name + (" *" if one.name == serving.name else ""),
            f"{one.item_count:,}",
            str(one.dimension),
            one.metric.value,
            one.kind,
            f"{row['recall']:.3f}" if row["recall"] is not None else "",
            f"{one.size_bytes / 2**20:.1f}",
            one.create_time.isoformat(sep=" ", timespec="seconds"),
            one.encoder,
        )
    Console().print(table)
    pending = serving.pending_item_count
    click.echo("* serving" + (f"; {pending:,} items changed since, run: vicinal refresh" if pending else ""))


def _all_snapshots(client: Client) -> list[Snapshot]:
    found: list[Snapshot] = []
    token = ""
    while True:
        page = client.list_snapshots(page_token=token)
        found += page.snapshots
        token = page.next_page_token
        if not token:
            return found


def _result_json(found: SearchResult) -> dict[str, Any]:
    return {
        "neighbors": [{"item_id": name, "score": score} for name, score in found],
        "snapshot": found.snapshot.name,
        "fingerprint": found.snapshot.fingerprint,
        "generation": found.snapshot.generation,
        "strategy": found.plan.strategy,
        "effort": found.plan.effort,
        "next_page_token": found.next_page_token,
    }


def _snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    recall = next((point.recall for point in snapshot.curve if point.effort == snapshot.default_effort), None)
    return {
        "name": snapshot.name,
        "fingerprint": snapshot.fingerprint,
        "metric": snapshot.metric.value,
        "dimension": snapshot.dimension,
        "item_count": snapshot.item_count,
        "kind": snapshot.kind,
        "recall": recall,
        "size_bytes": snapshot.size_bytes,
        "create_time": snapshot.create_time.isoformat(),
        "parent": snapshot.parent,
        "active": snapshot.active,
        "encoder": snapshot.encoder,
    }
