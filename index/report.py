"""Shows what the index stage did: tables for people, JSON values for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from index.build import BuildReport
from index.curve import CurvePoint
from index.drift import DriftReport
from index.publish import PublishReport
from index.tune import Trial
from vicinal.artifact import MANIFEST, read_manifest
from vicinal.errors import NoActiveSnapshotError, VicinalError
from vicinal.store import FAMILIES, Store
from vicinal.types import JsonObject

if TYPE_CHECKING:
    from index.bridge_pairs import Built
    from index.refresh import RefreshReport

_FORMATS = {"encoders": "encoder", "embeddings": "embeddings", "snapshots": "snapshot", "bridges": "bridge"}


def print_curve(curve: Sequence[CurvePoint], default_effort: int, *, title: str) -> None:
    """Prints a curve; the default effort is marked.

    Args:
        curve: measured points.
        default_effort: effort used where a query asks for none.
        title: headline.
    """
    table = Table(title=title)
    for name in ("effort", "recall@10", "p50 us", "p99 us", "queries/s"):
        table.add_column(name, justify="right")
    for point in curve:
        mark = " *" if point.effort == default_effort else ""
        effort = str(point.effort) if point.effort else "exact"
        table.add_row(
            effort + mark,
            f"{point.recall:.4f}",
            f"{point.p50_us:.0f}",
            f"{point.p99_us:.0f}",
            f"{point.queries_per_second:,.0f}",
        )
    Console().print(table)


def print_trials(trials: Sequence[Trial]) -> None:
    """Prints what was tried: measured on a sample, carried over to the whole."""
    table = Table(title="tried on a sample with held-out queries, expected of the whole")
    for name in ("kind", "effort", "recall@10", "queries/s", "p99 ms", "MiB", "build s", "refused"):
        table.add_column(
            name, justify="left" if name in {"kind", "refused"} else "right", no_wrap=name not in {"kind", "refused"}
        )
    for trial in trials:
        table.add_row(
            trial.label,
            str(trial.effort or "exact"),
            f"{trial.recall:.4f}",
            f"{trial.queries_per_second:,.0f}",
            f"{trial.p99_ms:.2f}",
            f"{trial.memory_bytes / 2**20:,.0f}",
            f"{trial.build_s:.1f}",
            trial.refused,
        )
    Console().print(table)


def print_build(report: BuildReport) -> None:
    """Prints what was built."""
    if report.trials:
        print_trials(report.trials)
    title = f"snapshots/{report.version}: {report.kind}, {report.count:,} items ({report.reason})"
    print_curve(report.curve, report.default_effort, title=title)
    size_mib = report.size_bytes / 2**20
    Console().print(f"built in {report.build_s:.1f} s, {size_mib:.1f} MiB; next: vicinal publish {report.version}")


def print_checks(report: PublishReport) -> None:
    """Prints the gates that a snapshot passed."""
    table = Table(title=f"snapshots/{report.active.snapshot} is active, generation {report.active.generation}")
    for name in ("gate", "measured", "wanted", ""):
        table.add_column(name)
    for check in report.checks:
        table.add_row(check.name, f"{check.value:g}", f"{check.limit:g}", check.note)
    Console().print(table)


def refresh_value(report: "RefreshReport") -> JsonObject:
    """Returns a refresh as JSON values."""
    published, built = report.published, report.built
    return {
        "action": report.action,
        "reason": report.reason,
        "recommended": report.recommended,
        "encoder": report.reembedded.encoder if report.reembedded else None,
        "bridge": _bridge_value(report),
        "lost_count": report.reembedded.lost_count if report.reembedded else 0,
        "snapshot": f"snapshots/{built.version}" if built else None,
        "published": published is not None,
        "generation": published.active.generation if published else None,
        "new_count": report.changes.new_count,
        "changed_count": report.changes.changed_count,
        "moved_count": report.changes.moved_count,
        "vanished_count": report.changes.vanished_count,
        "reused_count": len(report.changes.kept_rows),
        "quarantined_count": report.embedded.quarantined_count if report.embedded else 0,
        "count": built.count if built else None,
        "recall": built.recall if built else None,
        "drift": report.drift.to_json() if report.drift else None,
        "gate": {check.name: asdict(check) for check in published.checks} if published else {},
        "seconds": report.seconds,
    }


def _bridge_value(report: "RefreshReport") -> JsonObject | None:
    built = report.reembedded.bridge if report.reembedded else None
    return bridge_value(built) if built else None


def bridge_value(built: "Built") -> JsonObject:
    """Returns a bridge and what it is worth as JSON values."""
    return {
        "bridge": f"bridges/{built.version}",
        "source": built.bridge.source.fingerprint,
        "target": built.bridge.target.fingerprint,
        "pair_count": built.pair_count,
        **asdict(built.quality),
    }


def print_bridge(built: "Built") -> None:
    """Prints what a bridge is worth."""
    quality = built.quality
    table = Table(
        title=f"bridges/{built.version}: {built.pair_count} pairs, measured on {quality.held_out_count} of them"
    )
    for name in ("of mapped vectors", "share"):
        table.add_column(name)
    table.add_row("own item among the 10 nearest of all pairs", f"{quality.own_item:.3f}")
    table.add_row("the same by chance", f"{quality.shuffled:.3f}")
    table.add_row("10 nearest shared with the item's own vector", f"{quality.overlap:.3f}")
    Console().print(table)


def print_drift(drift: DriftReport) -> None:
    """Prints how new items differ from old ones."""
    table = Table(title=f"drift: {drift.new_count} new items against {drift.old_count} old ones -> {drift.advice}")
    for name in ("test", "value", "by chance", "detectable from", "shifted"):
        table.add_column(name)
    for test in drift.tests:
        shifted = "yes" if test.shifted else "no"
        table.add_row(test.name, f"{test.value:.3f}", f"{test.expected:.3f}", f"{test.detectable:.3f}", shifted)
    for source, ratio in drift.sources.items():
        table.add_row(f"  error of {source}", f"{ratio:.3f}", "1.000", "", "")
    console = Console()
    console.print(table)
    for reason in drift.reasons:
        console.print(f"  {reason}", markup=False)


def print_refresh(report: "RefreshReport") -> None:
    """Prints what a refresh did."""
    table = Table(title=f"refresh: {report.action} ({report.reason})", show_header=False)
    for name, value in refresh_value(report).items():
        if name not in {"action", "reason", "gate", "drift", "bridge"}:
            table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if report.drift:
        print_drift(report.drift)
    if report.recommended:
        Console().print(
            "a new encoder is advised: vicinal refresh CORPUS... --action retrain --minutes 10", markup=False
        )
    if report.published:
        print_checks(report.published)


def versions_value(store: Store) -> JsonObject:
    """Returns the artifacts of a workspace as JSON values, oldest first, and which snapshot is active."""
    value: JsonObject = {"active": None, "generation": None}
    try:
        active = store.active()
        value = {"active": f"snapshots/{active.snapshot}", "generation": active.generation}
    except NoActiveSnapshotError:
        pass
    for family in FAMILIES:
        value[family] = [_describe(store, family, version) for version in store.versions(family)]
    return value


def _describe(store: Store, family: str, version: str) -> JsonObject:
    path = store.path(family, version)
    entry: JsonObject = {"name": f"{family}/{version}"}
    try:
        manifest = read_manifest(path, kind=_FORMATS[family], version=1, verify=False)
    except VicinalError as error:
        return entry | {"error": error.message}
    size = sum(int(file["bytes"]) for name, file in manifest.files.items() if name != MANIFEST)
    known = ("kind", "count", "dimension", "metric", "fingerprint", "parent", "embeddings", "encoder")
    described = {name: manifest.body[name] for name in known if name in manifest.body}
    return entry | {"created_at": manifest.created_at, "size_bytes": size} | described


def print_versions(value: JsonObject) -> None:
    """Prints the artifacts of a workspace."""
    table = Table(title="artifacts, * active")
    for name in ("name", "created", "items", "what", "MiB"):
        table.add_column(name)
    for family in FAMILIES:
        for entry in value[family]:
            mark = " *" if entry["name"] == value["active"] else ""
            what = entry.get("error") or str(entry.get("kind") or entry.get("metric") or "")
            size = f"{entry['size_bytes'] / 2**20:.1f}" if "size_bytes" in entry else ""
            table.add_row(entry["name"] + mark, entry.get("created_at", ""), str(entry.get("count", "")), what, size)
    Console().print(table)
