"""Draws the neighbors of a query: finds their images in the corpora that a snapshot was made from."""

from pathlib import Path
from typing import TYPE_CHECKING

from vicinal.artifact import read_manifest
from vicinal.corpus import open_corpora
from vicinal.errors import FailedPreconditionError, InvalidImageError
from vicinal.modalities.image.decode import decode
from vicinal.modalities.image.preview import SheetRow, Tile, sheet
from vicinal.store import Store

if TYPE_CHECKING:
    from vicinal.client.results import SearchResult


def write_sheet(workspace: Path, found: "SearchResult", *, query: str | bytes, path: Path) -> None:
    """Writes a PNG of a query and its neighbors.

    Args:
        workspace: where the snapshot is that answered.
        found: the neighbors.
        query: an encoded image, or the id of an item.
        path: file to write.

    Raises:
        FailedPreconditionError: no image of the neighbors could be read.
        InvalidCorpusError: a corpus has moved.
        StorageError: the file cannot be written.
    """
    asked = [query] if isinstance(query, str) else []
    contents = read_images(workspace, found.snapshot.name, {*found.item_ids, *asked})
    tiles = [Tile(image=decode(contents[name]), caption=f"{score:.3f}") for name, score in found if name in contents]
    content = query if isinstance(query, bytes) else contents.get(query)
    if content is None or not tiles:
        raise FailedPreconditionError(
            f"none of the images is in the corpora of {found.snapshot.name}; they may have moved since it was built"
        )
    caption = query[-20:] if isinstance(query, str) else "query"
    sheet([SheetRow(query=Tile(image=decode(content), caption=caption), neighbors=tiles)], path)


def read_images(workspace: Path, snapshot: str, wanted: set[str]) -> dict[str, bytes]:
    """Returns the encoded images of items by id, as far as the corpora of a snapshot still hold them."""
    place = Store(workspace).path("snapshots", snapshot)
    manifest = read_manifest(place, kind="snapshot", version=2**31, verify=False)
    contents: dict[str, bytes] = {}
    for corpus in open_corpora([str(spec) for spec in manifest.body.get("corpora", ())]):
        with corpus:
            for item in corpus:
                if item.item_id in wanted - contents.keys():
                    try:
                        contents[item.item_id] = corpus.read(item)
                    except InvalidImageError:
                        continue
                if len(contents) == len(wanted):
                    return contents
    return contents
