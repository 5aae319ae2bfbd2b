"""The commands of a shell that read and change items, and those that start, show and cancel operations."""

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Column, Table

from vicinal.client.connection import connection_options
from vicinal.client.operations import Operation
from vicinal.client.sync import Client
from vicinal.client.writes import ItemUpsert
from vicinal.errors import InvalidArgumentError, VicinalError

_PUT_AT_ONCE = 64
_PUT_BYTES = 32 * 2**20
_DELETE_AT_ONCE = 10_000
_WAIT_S = 10.0
json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")


@click.group()
def items() -> None:
    """Add, replace, delete and show single items of a server; the next refresh folds them in."""


@items.command("put")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@connection_options
@click.option("--item-id", default="", help="Id of the one item. Default: the path as it is given.")
@click.option("--prefix", default="", help="Put before each path to make its id.")
@click.option("--set", "assignments", multiple=True, metavar="COLUMN=VALUE", help="Metadata of every item.")
@json_option
def put_items(
    *,
    client: Client,
    files: tuple[Path, ...],
    item_id: str,
    prefix: str,
    assignments: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add images, or replace those of the same id; searchable when this returns."""
    if item_id and len(files) > 1:
        raise InvalidArgumentError("--item-id names one item, and several files were given; use --prefix")
    metadata = dict(_assignment(text) for text in assignments)
    count, snapshot = 0, ""
    for group in _groups(files):
        upserts = [ItemUpsert(item_id=item_id or prefix + str(p), value=raw, metadata=metadata) for p, raw in group]
        done = client.upsert_items(upserts)
        count, snapshot = count + done.upserted_count, done.snapshot.name
    value = {"upserted_count": count, "snapshot": snapshot}
    click.echo(json.dumps(value) if as_json else f"{count} items put beside {snapshot}")


@items.command("delete")
@click.argument("item_ids", nargs=-1, required=True, metavar="ID...")
@connection_options
@json_option
def delete_items(*, client: Client, item_ids: tuple[str, ...], as_json: bool) -> None:
    """Delete items; a refresh does not bring them back."""
    deleted = unknown = 0
    for start in range(0, len(item_ids), _DELETE_AT_ONCE):
        done = client.delete_items(item_ids[start : start + _DELETE_AT_ONCE])
        deleted, unknown = deleted + done.deleted_count, unknown + done.unknown_count
    value = {"deleted_count": deleted, "unknown_count": unknown}
    click.echo(json.dumps(value) if as_json else f"{deleted} items deleted, {unknown} were unknown")


@items.command("show")
@click.argument("item_id")
@connection_options
@json_option
def show_item(*, client: Client, item_id: str, as_json: bool) -> None:
    """Show what is known of an item."""
    found = client.get_item(item_id)
    value = {
        "item_id": found.item.item_id,
        "digest": found.item.digest,
        "source": found.item.source,
        "path": found.item.path,
        "added_at": found.item.added_at.isoformat(),
        "metadata": dict(found.item.metadata),
        "snapshot": found.snapshot.name,
    }
    if as_json:
        click.echo(json.dumps(value, default=str))
        return
    for name, one in value.items():
        click.echo(f"{name}: {one}")


@click.command()
@click.argument("name", required=False)
@connection_options
@click.option("--refresh", is_flag=True, help="Start a refresh.")
@click.option("--corpus", "corpora", multiple=True, metavar="NAME", help="For --refresh: a corpus of the server.")
@click.option("--action", type=click.Choice(["auto", "add", "rebuild"]), default="auto", show_default=True)
@click.option("--prune", is_flag=True, help="For --refresh: drop items that vanished from their corpus.")
@click.option("--wait", is_flag=True, help="Wait for the end; exits 1 if it did not succeed.")
@click.option("--cancel", is_flag=True, help="Cancel the operation NAME.")
@json_option
def operations(
    *,
    client: Client,
    name: str | None,
    refresh: bool,
    corpora: tuple[str, ...],
    action: Literal["auto", "add", "rebuild"],
    prune: bool,
    wait: bool,
    cancel: bool,
    as_json: bool,
) -> None:
    """List the long-running jobs of a server; with NAME show one; with --refresh start one.

    What a refresh may read is in the server's configuration (refresh.corpora).
    """
    _check(name, refresh=refresh, wait=wait, cancel=cancel)
    if not (name or refresh):
        _show(client.list_operations().operations, as_json=as_json, one=False)
        return
    if refresh:
        found = client.start_refresh(corpora, action=action, prune=prune, request_id=uuid.uuid4().hex)
    else:
        found = client.cancel_operation(str(name)) if cancel else client.get_operation(str(name))
    stage = ""
    while wait and not found.done:
        if found.stage != stage:
            stage = found.stage
            click.echo(f"  {found.progress:4.0%}  {stage}", err=True)
        found = client.get_operation(found.name, wait_s=min(_WAIT_S, client.timeout_s / 2))
    _show([found], as_json=as_json, one=True)
    if found.error is not None and not cancel:
        raise found.error


def _check(name: str | None, *, refresh: bool, wait: bool, cancel: bool) -> None:
    if refresh and name:
        raise InvalidArgumentError("--refresh starts a new operation; leave out NAME")
    if cancel and not name:
        raise InvalidArgumentError("--cancel wants the name of an operation")
    if wait and not (name or refresh):
        raise InvalidArgumentError("--wait wants the name of an operation, or --refresh")


def _show(found: Sequence[Operation], *, as_json: bool, one: bool) -> None:
    if as_json:
        values = [_value(operation) for operation in found]
        click.echo(json.dumps(values[0] if one else {"operations": values}))
        return
    table = Table(Column("operation", no_wrap=True), "done", "progress", "stage", "started", "result")
    for operation in found:
        outcome = ", ".join(
            f"{name} {value}" for name, value in operation.result.items() if name in {"snapshot", "action"}
        )
        table.add_row(
            operation.name,
            "yes" if operation.done else "no",
            f"{operation.progress:.0%}",
            operation.stage,
            operation.create_time.isoformat(sep=" ", timespec="seconds"),
            operation.error.message if operation.error else outcome,
        )
    Console().print(table)


def _value(operation: Operation) -> dict[str, Any]:
    error: VicinalError | None = operation.error
    return {
        "name": operation.name,
        "verb": operation.verb,
        "done": operation.done,
        "progress": operation.progress,
        "stage": operation.stage,
        "create_time": operation.create_time.isoformat(),
        "end_time": operation.end_time.isoformat() if operation.end_time else None,
        "error": {"reason": error.reason, "message": error.message} if error else None,
        "result": dict(operation.result),
    }


def _groups(files: Sequence[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """Reads files, so many at a time that a request stays well under the limit of a message."""
    group: list[tuple[Path, bytes]] = []
    size = 0
    for path in files:
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise InvalidArgumentError(f"cannot read {path}: {error.strerror or error}") from error
        if group and (len(group) == _PUT_AT_ONCE or size + len(raw) > _PUT_BYTES):
            yield group
            group, size = [], 0
        group.append((path, raw))
        size += len(raw)
    if group:
        yield group


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidArgumentError(f"{text!r} is not of the form COLUMN=VALUE")
    try:
        known = json.loads(value)
    except ValueError:
        return name, value
    return name, known if isinstance(known, bool | int | float) else value
