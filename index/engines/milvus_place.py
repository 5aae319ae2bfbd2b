"""Where the vectors of a snapshot are in Milvus: ``milvus.json`` in its directory names server and collection."""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vicinal.artifact import storage_guard
from vicinal.errors import CorruptArtifactError, InvalidArgumentError, VicinalError

PLACE_FILE = "milvus.json"
URI_VARIABLE = "VICINAL_MILVUS_URI"
_PREFIX = "vicinal_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the vectors of a snapshot are."""

    uri: str
    """Address of the server, such as ``http://127.0.0.1:19530``."""
    collection: str
    """Name of the collection."""
    count: int
    """Vectors in it."""
    alias: str
    """Name under which the published snapshot is found."""
    effort_name: str
    """Milvus's name of the search effort, such as ``ef``."""


def resolve_uri(uri: str) -> str:
    """Returns the address to use: the variable ``VICINAL_MILVUS_URI`` where it is set, else the given one.

    Raises:
        InvalidArgumentError: neither says one, or it is no address of a server.
    """
    found = os.environ.get(URI_VARIABLE) or uri
    if not found.startswith(("http://", "https://")):
        raise InvalidArgumentError(
            f"the Milvus server is {found!r}, wanted an address such as http://127.0.0.1:19530; set the parameter uri "
            f"or {URI_VARIABLE}",
            field="uri",
        )
    return found


def new_place(uri: str, *, count: int, alias: str, effort_name: str) -> Place:
    """Returns a place for a collection that is not there yet."""
    name = f"{_PREFIX}{uuid.uuid4().hex}"
    return Place(uri=resolve_uri(uri), collection=name, count=count, alias=alias, effort_name=effort_name)


def write_place(directory: Path, place: Place) -> None:
    """Writes which collection a snapshot has.

    Raises:
        StorageError: the disk is full or failed.
    """
    path = directory / PLACE_FILE
    with storage_guard(path):
        path.write_text(json.dumps({"format_version": 1, **asdict(place)}, indent=1) + "\n", encoding="utf-8")


def read_place(directory: Path) -> Place:
    """Reads which collection a snapshot has; the variable ``VICINAL_MILVUS_URI`` says where the server is now.

    Raises:
        CorruptArtifactError: the file is missing, damaged or of an unknown version.
    """
    path = directory / PLACE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.pop("format_version")
        place = Place(**raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtifactError(f"{path} cannot be read: {error}", metadata={"file": PLACE_FILE}) from error
    if version != 1:
        raise CorruptArtifactError(f"{path} has format_version {version}, this build reads 1")
    return replace(place, uri=resolve_uri(place.uri))


def places_of(directories: Mapping[str, Path]) -> dict[str, Place]:
    """Returns the places of those snapshots that have one, by version.

    Args:
        directories: directories of snapshots by version.
    """
    places: dict[str, Place] = {}
    for version, directory in directories.items():
        if (directory / PLACE_FILE).is_file():
            with contextlib.suppress(VicinalError):
                places[version] = read_place(directory)
    return places
