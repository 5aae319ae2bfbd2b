"""The commands `vicinal label ...`: sets, labels, history, files."""

import json
import uuid

import click
from rich.console import Console
from rich.table import Table

from vicinal.client.connection import connection_options
from vicinal.client.label_file_commands import export, import_
from vicinal.client.label_printing import (
    all_labels,
    author_option,
    batch_json,
    json_option,
    label_json,
    pair_label,
    say,
)
from vicinal.client.proposal_commands import accept, next_items, proposals, propose, reject
from vicinal.client.sync import Client


@click.group()
def label() -> None:
    """Keep label sets: put, propose, accept, undo, export."""


@label.command()
@click.argument("name")
@connection_options
@click.option("--multi-label", is_flag=True, help="An item may have several labels.")
@json_option
def create(*, client: Client, name: str, multi_label: bool, as_json: bool) -> None:
    """Make a label set."""
    found = client.create_label_set(name, multi_label=multi_label)
    click.echo(json.dumps({"name": found.name}) if as_json else f"made {found.name}")


@label.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, metavar="ITEM=LABEL...")
@connection_options
@author_option
@click.option("--negative", is_flag=True, help="The items are of none of the classes; give ITEMs alone.")
@click.option("--create", "make", is_flag=True, help="Make the set if there is none of that name.")
@json_option
def put(
    *, client: Client, name: str, pairs: tuple[str, ...], author: str, negative: bool, make: bool, as_json: bool
) -> None:
    """Label items: ITEM=LABEL, the last = counts."""
    labels = [pair_label(pair, author=author, negative=negative) for pair in pairs]
    if make and f"labelSets/{name.removeprefix('labelSets/')}" not in {one.name for one in client.list_label_sets()}:
        client.create_label_set(name)
    say(client.put_labels(name, labels, request_id=uuid.uuid4().hex), as_json=as_json)


@label.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, metavar="ITEM[=LABEL]...")
@connection_options
@author_option
@json_option
def remove(*, client: Client, name: str, pairs: tuple[str, ...], author: str, as_json: bool) -> None:
    """Take labels off items; an ITEM alone loses all of its labels."""
    labels = [pair_label(pair, author="", negative=False, bare=True) for pair in pairs]
    say(client.remove_labels(name, labels, author=author), as_json=as_json)


@label.command("list")
@click.argument("name", required=False)
@connection_options
@click.option("--label", "only", default="", help="Only this class.")
@click.option("--version", type=int, help="As of this version.")
@json_option
def list_(*, client: Client, name: str | None, only: str, version: int | None, as_json: bool) -> None:
    """List the label sets, or the labels of one."""
    if name is None:
        _list_sets(client, as_json=as_json)
        return
    rows = list(all_labels(client, name, label=only, version=version))
    if as_json:
        click.echo(json.dumps({"labels": [label_json(one) for one in rows]}))
        return
    table = Table("item", "label", "source", "author", "p", "put at", "batch")
    for one in rows:
        table.add_row(
            one.item_id,
            one.label or "(none)",
            one.source,
            one.author,
            f"{one.confidence:.2f}",
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
            str(one.batch),
        )
    Console().print(table)


@label.command()
@click.argument("name")
@click.argument("old")
@click.argument("new")
@connection_options
@author_option
@json_option
def rename(*, client: Client, name: str, old: str, new: str, author: str, as_json: bool) -> None:
    """Rename class OLD to NEW; onto a class that exists, merge the two."""
    say(client.rename_class(name, old, new, author=author), as_json=as_json)


@label.command()
@click.argument("name")
@connection_options
@author_option
@json_option
def delete(*, client: Client, name: str, author: str, as_json: bool) -> None:
    """Hide a label set; undo brings it back."""
    say(client.delete_label_set(name, author=author), as_json=as_json)


@label.command()
@click.argument("name")
@connection_options
@click.option("--count", "-n", type=int, default=20, show_default=True, help="Batches to show.")
@json_option
def history(*, client: Client, name: str, count: int, as_json: bool) -> None:
    """List the newest changes of a label set."""
    found = client.list_batches(name, page_size=count)
    if as_json:
        click.echo(json.dumps({"batches": [batch_json(one) for one in found]}))
        return
    table = Table("batch", "verb", "changes", "author", "at", "of", "undone")
    for one in found:
        table.add_row(
            str(one.number),
            one.verb,
            str(one.change_count),
            one.author,
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
            str(one.target or ""),
            "yes" if one.undone else "",
        )
    Console().print(table)


@label.command()
@click.argument("name")
@click.argument("batch", type=int, default=0)
@connection_options
@author_option
@json_option
def undo(*, client: Client, name: str, batch: int, author: str, as_json: bool) -> None:
    """Undo a BATCH; default: the newest that is not undone."""
    say(client.undo_batch(name, batch, author=author), as_json=as_json)


@label.command()
@click.argument("name")
@click.argument("batch", type=int, default=0)
@connection_options
@author_option
@json_option
def redo(*, client: Client, name: str, batch: int, author: str, as_json: bool) -> None:
    """Do an undone BATCH again; default: the last undone."""
    say(client.redo_batch(name, batch, author=author), as_json=as_json)


@label.command()
@click.argument("name")
@connection_options
@json_option
def conflicts(*, client: Client, name: str, as_json: bool) -> None:
    """List items on which people disagree; put a label again to settle one."""
    found = client.list_conflicts(name)
    if as_json:
        value = [{"item_id": one.item_id, "labels": [label_json(row) for row in one.labels]} for one in found]
        click.echo(json.dumps({"conflicts": value}))
        return
    table = Table("item", "said")
    for one in found:
        table.add_row(one.item_id, "; ".join(f"{row.author}: {row.label or '(none)'}" for row in one.labels))
    Console().print(table)


def _list_sets(client: Client, *, as_json: bool) -> None:
    found = client.list_label_sets()
    if as_json:
        value = [
            {"name": one.name, "version": one.version, "multi_label": one.multi_label, "classes": dict(one.classes)}
            for one in found
        ]
        click.echo(json.dumps({"label_sets": value}))
        return
    table = Table("label set", "version", "items", "classes", "negatives")
    for one in found:
        most = sorted(one.classes.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{name} {count}" for name, count in most[:8]) + (", ..." if len(most) > 8 else "")
        kind = str(sum(one.classes.values())) + (" (multi)" if one.multi_label else "")
        table.add_row(one.name, str(one.version), kind, shown, str(one.negative_count))
    Console().print(table)


for _command in (propose, proposals, accept, reject, next_items, export, import_):
    label.add_command(_command)
