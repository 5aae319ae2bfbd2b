"""What the commands of labels share: options, and how results are written."""

import getpass
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import click

from vicinal.client.label_results import Label, LabelBatch
from vicinal.client.sync import Client
from vicinal.errors import InvalidArgumentError

json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")


def login_name() -> str:
    """Returns the name of the user of this process; empty where there is none, or where an API key says who it is."""
    if os.environ.get("VICINAL_API_KEY"):
        return ""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        return ""


author_option = click.option(
    "--author",
    "-a",
    default=login_name,
    envvar="VICINAL_AUTHOR",
    show_default="name of the key, else of the login",
    help="Who does it.",
)


def all_labels(client: Client, name: str, *, label: str = "", version: int | None = None) -> Iterator[Label]:
    """Yields the labels of a set, page after page, all of one version."""
    token = ""
    while True:
        page = client.list_labels(name, label=label, version=version, page_size=10_000, page_token=token)
        yield from page.labels
        token = page.next_page_token
        if not token:
            return


def pair_label(pair: str, *, author: str, negative: bool, bare: bool = False) -> Label:
    """Reads ITEM=LABEL.

    Args:
        pair: the text; the last = counts, since ids may hold one.
        author: who says so.
        negative: ITEM alone, of none of the classes.
        bare: ITEM alone is allowed.

    Raises:
        InvalidArgumentError: not of that form.
    """
    if negative:
        return Label(item_id=pair, negative=True, author=author)
    item_id, equals, label = pair.rpartition("=")
    if not equals and bare:
        return Label(item_id=pair)
    if not item_id or not label:
        raise InvalidArgumentError(f"{pair!r} is not of the form ITEM=LABEL")
    return Label(item_id=item_id, label=label, author=author)


def say(batch: LabelBatch, *, as_json: bool) -> None:
    """Writes what a batch did."""
    if as_json:
        click.echo(json.dumps(batch_json(batch)))
        return
    more = [f"{batch.change_count} labels changed"]
    more += [f"{batch.missing_count} items are not in the active snapshot"] if batch.missing_count else []
    more += [f"{batch.skipped_count} left alone, changed since"] if batch.skipped_count else []
    more += ["two classes became one"] if batch.merged else []
    click.echo(f"batch {batch.number} ({batch.verb}): {'; '.join(more)}")


def told(value: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Writes a value as JSON, or a text."""
    click.echo(json.dumps(value) if as_json else text)


def label_json(label: Label) -> dict[str, Any]:
    """Returns a label as JSON values."""
    return {
        "item_id": label.item_id,
        "label": label.label,
        "negative": label.negative,
        "source": label.source,
        "author": label.author,
        "confidence": label.confidence,
        "created_at": label.created_at.isoformat() if label.created_at else None,
        "batch": label.batch,
        "snapshot": label.snapshot,
    }


def batch_json(batch: LabelBatch) -> dict[str, Any]:
    """Returns a batch as JSON values."""
    return {
        "number": batch.number,
        "verb": batch.verb,
        "author": batch.author,
        "created_at": batch.created_at.isoformat(),
        "change_count": batch.change_count,
        "target": batch.target,
        "undone": batch.undone,
        "missing_count": batch.missing_count,
        "skipped_count": batch.skipped_count,
        "merged": batch.merged,
    }
