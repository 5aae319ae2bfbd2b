"""The commands `vicinal label export` and `vicinal label import`."""

import hashlib
import importlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import click

from vicinal.client.connection import connection_options
from vicinal.client.label_printing import all_labels, author_option, json_option, say, told
from vicinal.client.label_results import Label, LabelBatch
from vicinal.client.sync import Client
from vicinal.errors import InvalidArgumentError

FOLDERS = "folders"
_PUT_BATCH = 10_000
_FORMATS = "csv, jsonl, parquet, coco, label-studio or folders."


@click.command()
@click.argument("name")
@connection_options
@click.option("--format", "file_format", default="csv", show_default=True, help=_FORMATS)
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, help="File, or directory for folders.")
@click.option("--version", type=int, help="As of this version.")
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    help="For folders: the workspace whose snapshot names the corpora.",
)
@json_option
def export(
    *, client: Client, name: str, file_format: str, out: Path, version: int | None, workspace: Path, as_json: bool
) -> None:
    """Write a label set as a file, or its images into folders by class."""
    # By name: the light client neither needs nor imports what reads images.
    if file_format == FOLDERS:
        labels: dict[str, list[str]] = {}
        for one in all_labels(client, name, version=version):
            labels.setdefault(one.item_id, []).extend([one.label] if one.label else [])
        snapshot = client.get_active_snapshot().name
        files = importlib.import_module("vicinal.label_files")
        count = files.export_folders(workspace, snapshot, labels, out)
        told({"path": str(out), "file_count": count}, f"{count} images in {out}", as_json=as_json)
        return
    content = client.export_labels(name, file_format, version=version)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise InvalidArgumentError(f"cannot write {out}: {error.strerror or error}") from error
    told({"path": str(out), "bytes": len(content)}, f"written to {out}", as_json=as_json)


@click.command("import")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@connection_options
@author_option
@click.option("--format", "file_format", default="csv", show_default=True, help=_FORMATS)
@json_option
def import_(*, client: Client, name: str, path: Path, author: str, file_format: str, as_json: bool) -> None:
    """Read a file of labels, or folders of images by class, into a label set."""
    if file_format == FOLDERS:
        batches = list(_import_folders(client, name, path, author=author))
        for batch in batches:
            say(batch, as_json=as_json)
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror or error}") from error
    say(client.import_labels(name, file_format, content, author=author, request_id=uuid.uuid4().hex), as_json=as_json)


def _import_folders(client: Client, name: str, path: Path, *, author: str) -> Iterator[LabelBatch]:
    """Labels the items whose bytes are those of the files in one folder for each class."""
    if not path.is_dir():
        raise InvalidArgumentError(f"{path} is not a directory; give one that holds a folder for each class")
    wanted: dict[str, str] = {}
    for folder in sorted(one for one in path.iterdir() if one.is_dir()):
        for file in sorted(one for one in folder.rglob("*") if one.is_file()):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if wanted.setdefault(digest, folder.name) != folder.name:
                raise InvalidArgumentError(f"{file} is also in the folder {wanted[digest]}; nothing was imported")
    labels = [
        Label(item_id=item_id, label=wanted[digest], author=author, source="imported")
        for item_id, digest in _items(client)
        if digest in wanted
    ]
    if not labels:
        raise InvalidArgumentError(f"none of the {len(wanted)} files in {path} is an item of the active snapshot")
    for start in range(0, len(labels), _PUT_BATCH):
        yield client.put_labels(name, labels[start : start + _PUT_BATCH], request_id=uuid.uuid4().hex)


def _items(client: Client) -> Iterator[tuple[str, str]]:
    token, snapshot = "", client.get_active_snapshot().name
    while True:
        page = client.list_items(page_size=10_000, page_token=token, snapshot=snapshot)
        yield from ((item.item_id, item.digest) for item in page.items)
        token = page.next_page_token
        if not token:
            return
