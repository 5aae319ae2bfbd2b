"""The commands `vicinal label propose`, `proposals`, `accept`, `reject` and `next`."""

import importlib
import json
import uuid
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from vicinal.client.connection import connection_options
from vicinal.client.label_printing import author_option, json_option, say, told
from vicinal.client.label_results import ProposalRule
from vicinal.client.sync import Client

sheet_option = click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG of the items.")
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
@click.argument("name")
@connection_options
@click.option("--classifier", default="auto", show_default=True, help="A name that `vicinal classify` takes.")
@click.option("--min-probability", type=float, default=0.5, show_default=True, help="At least, 0 to 1.")
@click.option("--count", "-n", type=int, default=10_000, show_default=True, help="Proposals at most.")
@json_option
def propose(*, client: Client, name: str, classifier: str, min_probability: float, count: int, as_json: bool) -> None:
    """Propose labels for the unlabelled items of the snapshot."""
    found = client.propose(name, classifier=classifier, min_probability=min_probability, proposal_count=count)
    value = {
        "proposal_count": found.proposal_count,
        "candidate_count": found.candidate_count,
        "classifier": found.classifier,
        "snapshot": found.snapshot.name,
    }
    text = f"{found.proposal_count} of {found.candidate_count} unlabelled items have a proposal ({found.classifier})"
    told(value, text, as_json=as_json)


@click.command()
@click.argument("name")
@connection_options
@click.option("--label", "only", default="", help="Only this class.")
@click.option("--count", "-n", type=int, default=50, show_default=True, help="Proposals to show, up to 10,000.")
@sheet_option
@workspace_option
@json_option
def proposals(
    *, client: Client, name: str, only: str, count: int, sheet: Path | None, workspace: Path, as_json: bool
) -> None:
    """List open proposals, most certain first, with the items that speak for them."""
    found = client.list_proposals(name, label=only, page_size=count).proposals
    if sheet is not None:
        rows = [
            (one.item_id, f"{one.label} {one.probability:.2f}", [(item, "") for item in one.evidence_item_ids])
            for one in found
        ]
        _draw(client, workspace, rows, sheet)
    if as_json:
        value = [
            {
                "item_id": one.item_id,
                "label": one.label,
                "probability": one.probability,
                "score": one.score,
                "evidence": one.evidence_item_ids,
            }
            for one in found
        ]
        click.echo(json.dumps({"proposals": value}))
        return
    table = Table("item", "label", "p", "score", "evidence")
    for one in found:
        table.add_row(
            one.item_id, one.label, f"{one.probability:.3f}", f"{one.score:.3f}", ", ".join(one.evidence_item_ids)
        )
    Console().print(table)


def _rule_options(command: Any) -> Any:
    for option in (
        click.option("--min-score", type=float, help="All with at least this score against the prototype."),
        click.option("--min-probability", type=float, help="All with at least this probability."),
        click.option("--label", "only", default="", help="All of this class."),
    ):
        command = option(command)
    return command


def _rule(only: str, min_probability: float | None, min_score: float | None) -> ProposalRule | None:
    if not only and min_probability is None and min_score is None:
        return None
    return ProposalRule(label=only, min_probability=min_probability, min_score=min_score)


@click.command()
@click.argument("name")
@click.argument("items", nargs=-1, metavar="[ITEM...]")
@connection_options
@_rule_options
@author_option
@json_option
def accept(
    *,
    client: Client,
    name: str,
    items: tuple[str, ...],
    only: str,
    min_probability: float | None,
    min_score: float | None,
    author: str,
    as_json: bool,
) -> None:
    """Accept proposals, of ITEMs or by a rule, as one batch that undo takes back as one."""
    rule = _rule(only, min_probability, min_score)
    batch = client.accept_proposals(name, items, rule=rule, author=author, request_id=uuid.uuid4().hex)
    say(batch, as_json=as_json)


@click.command()
@click.argument("name")
@click.argument("items", nargs=-1, metavar="[ITEM...]")
@connection_options
@_rule_options
@author_option
@json_option
def reject(
    *,
    client: Client,
    name: str,
    items: tuple[str, ...],
    only: str,
    min_probability: float | None,
    min_score: float | None,
    author: str,
    as_json: bool,
) -> None:
    """Reject proposals, of ITEMs or by a rule; they are not proposed again."""
    rule = _rule(only, min_probability, min_score)
    say(client.reject_proposals(name, items, rule=rule, author=author), as_json=as_json)


@click.command("next")
@click.argument("name")
@connection_options
@click.option("--count", "-n", type=int, default=20, show_default=True, help="Items wanted.")
@click.option("--strategy", default="auto", show_default=True, help="auto, typical, k_center, margin or random.")
@sheet_option
@workspace_option
@json_option
def next_items(
    *, client: Client, name: str, count: int, strategy: str, sheet: Path | None, workspace: Path, as_json: bool
) -> None:
    """Say which items are worth labelling next, and why."""
    found = client.suggest_next(name, item_count=count, strategy=strategy)
    if sheet is not None:
        _draw(client, workspace, [(item, Path(item).name, []) for item in found.item_ids], sheet)
    if as_json:
        value = {
            "item_ids": found.item_ids,
            "strategy": found.strategy,
            "explanation": found.explanation,
            "snapshot": found.snapshot.name,
        }
        click.echo(json.dumps(value))
        return
    for item in found.item_ids:
        click.echo(item)
    click.echo(found.explanation, err=True)


def _draw(client: Client, workspace: Path, rows: list[tuple[str, str, list[tuple[str, str]]]], path: Path) -> None:
    # By name: the light client neither needs nor imports what reads images.
    files = importlib.import_module("vicinal.label_files")
    shown = [files.Shown(item_id=item, caption=caption, beside=beside) for item, caption, beside in rows]
    files.draw(workspace, client.get_active_snapshot().name, shown, path)
