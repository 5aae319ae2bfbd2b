"""Commands of the index: build, evaluate, publish, rollback, gc, versions."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from index.gate_options import gate_options

workspace_option = click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="Directory of the workspace.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def tell(message: str) -> None:
    """Says what is being done, on the error stream."""
    click.echo(f"  {message}", err=True)


def show(value: Any, *, as_json: bool, table: Callable[[], None]) -> None:
    """Prints a result: as JSON, or as a table for people.

    Args:
        value: the result as JSON values.
        as_json: whether JSON was asked for.
        table: prints the table.
    """
    if as_json:
        click.echo(json.dumps(value, default=_plain))
    else:
        table()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _params(assignments: tuple[str, ...]) -> dict[str, Any]:
    from vicinal.config import with_overrides

    return with_overrides({}, assignments)


@click.command()
@workspace_option
@json_option
@click.option("--embeddings", default="latest", show_default=True, help="Version of the embeddings.")
@click.option("--kind", default="auto", show_default=True, help="Kind of index, or auto: chosen by measuring.")
@click.option("--recall", type=float, default=0.99, show_default=True, help="Recall@10 that must be reached.")
@click.option("--memory", metavar="SIZE", help="auto: memory at most, such as 2GiB.")
@click.option("--latency", metavar="TIME", help="auto: 99th percentile of one query at most, such as 5ms.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of clustering and of the queries.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A parameter of the kind.")
def build(
    *,
    workspace: Path,
    as_json: bool,
    embeddings: str,
    kind: str,
    recall: float,
    memory: str | None,
    latency: str | None,
    seed: int,
    assignments: tuple[str, ...],
) -> None:
    """Build a snapshot from embeddings, measured against exact search."""
    from index import build as builder
    from index.quantities import parse_milliseconds, parse_size
    from index.report import print_build
    from vicinal.store import Store

    config = builder.BuildConfig(
        kind=kind,
        params=_params(assignments),
        recall=recall,
        memory_bytes=None if memory is None else parse_size(memory),
        latency_ms=None if latency is None else parse_milliseconds(latency),
        seed=seed,
    )
    report = builder.build(Store(workspace), embeddings=embeddings, config=config, progress=tell)
    point = next((p for p in report.curve if p.effort == report.default_effort), None)
    value = {
        **asdict(report),
        "snapshot": f"snapshots/{report.version}",
        "seconds": report.build_s,
        "p50_us": point.p50_us if point else None,
        "p99_us": point.p99_us if point else None,
    }
    show(value, as_json=as_json, table=lambda: print_build(report))


@click.command()
@click.argument("version", default="latest")
@workspace_option
@json_option
@click.option("--queries", "query_count", type=click.IntRange(10), default=1000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def evaluate(*, version: str, workspace: Path, as_json: bool, query_count: int, seed: int) -> None:
    """Measure recall and latency of a snapshot against exact search."""
    from index.evaluate import evaluate as measure
    from index.report import print_curve
    from index.snapshot import Snapshot
    from vicinal.store import Store

    with Snapshot.open(Store(workspace).path("snapshots", version)) as snapshot:
        queries, curve = measure(snapshot, query_count=query_count, seed=seed)
        value = {"snapshot": snapshot.name, "queries": queries.how, "curve": [asdict(point) for point in curve]}
        show(value, as_json=as_json, table=lambda: print_curve(curve, snapshot.default_effort, title=snapshot.name))


@click.command()
@click.argument("version", default="latest")
@workspace_option
@json_option
@gate_options
def publish(*, version: str, workspace: Path, as_json: bool, gates: dict[str, Any]) -> None:
    """Put a snapshot in service, behind gates; a failed gate changes nothing, and a report says why."""
    from index import publish as publisher
    from index.gates import Gates
    from index.report import print_checks
    from vicinal.store import Store

    report = publisher.publish(Store(workspace), version, gates=Gates(**gates), progress=tell)
    value = {
        "snapshot": f"snapshots/{report.active.snapshot}",
        "generation": report.active.generation,
        "checks": [asdict(check) for check in report.checks],
        "seconds": report.seconds,
    }
    show(value, as_json=as_json, table=lambda: print_checks(report))


@click.command()
@workspace_option
@json_option
def rollback(*, workspace: Path, as_json: bool) -> None:
    """Go back to the snapshot served before."""
    from index.publish import rollback as go_back
    from vicinal.store import Store

    active = go_back(Store(workspace))
    value = {"snapshot": f"snapshots/{active.snapshot}", "generation": active.generation}
    show(value, as_json=as_json, table=lambda: click.echo(f"active: snapshots/{active.snapshot}"))


@click.command()
@workspace_option
@json_option
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, help="Newest snapshots to keep.")
@click.option("--work-days", type=click.FloatRange(0), help="Days an unfinished embed job is kept [default: 7].")
def gc(*, workspace: Path, as_json: bool, keep: int, work_days: float | None) -> None:
    """Remove old snapshots that are not active, pinned or open, and what only they or crashed writers left.

    Embed jobs that were cut short are kept for some days, to be continued, and never removed while they run.
    """
    from index.collect import collect
    from index.collect_work import WORK_DAYS
    from vicinal.store import Store

    days = WORK_DAYS if work_days is None else work_days
    removed = collect(Store(workspace), keep=keep, work_days=days)
    text = "\n".join(f"removed {name}" for name in removed) or "nothing to remove"
    show({"removed": removed}, as_json=as_json, table=lambda: click.echo(text))


@click.command()
@workspace_option
@json_option
def versions(*, workspace: Path, as_json: bool) -> None:
    """List the artifacts of a workspace."""
    from index.report import print_versions, versions_value
    from vicinal.store import Store

    value = versions_value(Store(workspace))
    show(value, as_json=as_json, table=lambda: print_versions(value))
