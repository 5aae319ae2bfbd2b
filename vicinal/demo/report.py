"""The demo's report: a table for the terminal, and the same as Markdown and JSON."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vicinal.demo.run import Findings


def rows(found: Findings) -> list[tuple[str, str, str]]:
    """Returns the lines of the report: what, figure, and what to compare it with."""
    knn = found.encoder["knn"]
    few = found.encoder["few_shot"]
    refresh, search, build = found.refresh, found.search, found.build
    return [
        (
            "kNN accuracy of the encoder",
            _percent(knn["encoder"]),
            f"random encoder {_percent(knn['random'])}, raw pixels {_percent(knn['pixels'])}",
        ),
        (
            "10 labels a class, frozen embeddings",
            _percent(few["frozen"]),
            f"the same network from scratch on those labels {_percent(few['scratch'])}",
        ),
        (
            "10 labels a class over gRPC",
            _percent(found.classify["accuracy"]),
            (
                f"{found.classify['image_count']:,} images, classifier {found.classify['classifier']}, "
                f"{found.classify['images_per_second']:,.0f} images/s"
            ),
        ),
        (
            f"recall@10 of the index ({build['kind']})",
            f"{search['recall']:.4f}",
            f"against exact search, {search['query_count']:,} test images",
        ),
        (
            "latency of one query, one caller",
            f"{search['p50_ms']:.2f} ms",
            f"p99 {search['p99_ms']:.2f} ms, Python client over loopback",
        ),
        (
            "pretraining",
            f"{found.seconds['pretrain']:.0f} s",
            f"{found.pretrain['views_per_second']:,.0f} views/s, {found.pretrain['images']:,} images, no labels",
        ),
        ("embedding", f"{found.seconds['embed']:.1f} s", f"{found.embed['count']:,} images"),
        (
            "refresh with new images",
            f"{found.seconds['refresh']:.1f} s",
            f"{refresh['new_count']:,} embedded, {refresh['reused_count']:,} reused",
        ),
        (
            "requests meanwhile",
            f"{refresh['requests']:,}",
            f"{refresh['failed']} failed, {refresh['wrong']} wrong, {refresh['out_of_order']} out of order, "
            f"p99 {refresh['p99_ms']:.2f} ms; the same server answers from the new snapshot: "
            + ("yes" if refresh["swapped"] else "NO"),
        ),
        ("the whole demo", f"{sum(found.seconds.values()):.0f} s", "without installing"),
    ]


def write(found: Findings, folder: Path) -> None:
    """Writes ``report.json`` and ``report.md``."""
    (folder / "report.json").write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    lines = ["# Vicinal demo", "", "| what | figure | beside |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {beside} |" for what, figure, beside in rows(found)]
    (folder / "report.md").write_text("\n".join([*lines, "", "![neighbors](neighbors.png)", ""]), encoding="utf-8")


def show(found: Findings, folder: Path, console: Console, *, workspace: Path) -> None:
    """Prints the report and the three commands to try next."""
    table = Table(title="Vicinal on Fashion-MNIST")
    table.add_column("what")
    table.add_column("figure", justify="right", style="bold")
    table.add_column("beside")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    sample = min((folder / "samples").iterdir())
    console.print(f"report:    {folder / 'report.md'}\nneighbors: {folder / 'neighbors.png'}  (look at it)\n")
    console.print("Try next (the server in one terminal, the others in a second):", style="bold")
    run = "  .venv/bin/vicinal"
    console.print(f"{run} serve --workspace {workspace}", soft_wrap=True)
    console.print(f"{run} query {sample} --sheet found.png --workspace {workspace}", soft_wrap=True)
    console.print(f"{run} snapshots", soft_wrap=True)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
