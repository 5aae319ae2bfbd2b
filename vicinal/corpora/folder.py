"""A folder of image files, read recursively, each directory in the order of its names.

Links to files are followed. Links to directories are not, unless ``links=follow`` is given; then
each directory is entered once, so that neither a loop nor a thicket of links multiplies it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from vicinal.corpus import CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError
from vicinal.image_files import file_item, read_file, why
from vicinal.item_names import is_image_name, printable

_MAX_DEPTH = 200

OPTIONS: tuple[str, ...] = ("links",)


def recognises(location: str) -> bool:
    """Says whether the location is a directory."""
    return Path(location).is_dir()


class Reader:
    """A folder of image files."""

    sequential = False
    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        self._root = os.path.realpath(spec.location)
        self._follow = spec.options.get("links", "skip") == "follow"
        if spec.options.get("links", "skip") not in {"skip", "follow"}:
            raise InvalidCorpusError(f"corpus {spec.text!r}: links is {spec.options['links']!r}, wanted skip or follow")
        try:
            with os.scandir(self._root):
                pass
        except OSError as error:
            raise InvalidCorpusError(f"cannot read the folder {spec.location}: {error.strerror or error}") from error

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the images below the folder, depth first, each directory in the order of its names."""
        seen: set[tuple[int, int]] = set()
        # A stack of iterators and not recursion: a folder may be deeper than Python recurses.
        stack = [self._listing("", seen)]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
            elif not isinstance(entry, str):
                yield entry
            elif self._wanted(entry, under):
                if len(stack) >= _MAX_DEPTH:
                    yield Quarantined(item_id=printable(entry), reason="TOO_DEEP", message="folders nest too deep")
                else:
                    stack.append(self._listing(entry, seen))

    @staticmethod
    def _wanted(directory: str, under: str) -> bool:
        shown = printable(directory) + "/"
        return shown.startswith(under) or under.startswith(shown)

    def _listing(self, directory: str, seen: set[tuple[int, int]]) -> Iterator[CorpusItem | Quarantined | str]:
        """Yields the items of one directory, and for each directory in it, its path."""
        place = os.path.join(self._root, directory) if directory else self._root  # noqa: PTH118 - bytes of names matter
        try:
            if self._follow:
                found = os.stat(place)  # noqa: PTH116
                if (found.st_dev, found.st_ino) in seen:
                    return
                seen.add((found.st_dev, found.st_ino))
            with os.scandir(place) as scan:
                names = sorted((entry.name, _kind(entry)) for entry in scan)
        except OSError as error:
            yield Quarantined(item_id=printable(directory), reason="UNREADABLE", message=why(error))
            return
        for name, kind in names:
            path = f"{directory}/{name}" if directory else name
            if kind == "directory" and not name.startswith(".") and name != "__MACOSX":
                yield path
            elif kind == "linked directory" and not name.startswith("."):
                yield path if self._follow else _link(path)
            elif kind == "file" and is_image_name(path):
                yield file_item(self._root, path)

    def read(self, item: CorpusItem) -> bytes:
        """Returns the bytes of the file, which must be a regular one when it is opened."""
        return read_file(self._root, item)

    def close(self) -> None:
        """Holds nothing open."""


def _kind(entry: "os.DirEntry[str]") -> str:
    try:
        if entry.is_dir():
            return "linked directory" if entry.is_symlink() else "directory"
    except OSError:
        pass
    return "file"


def _link(path: str) -> Quarantined:
    message = "it is a link to a folder, which is not followed; name that folder as a corpus, or add ?links=follow"
    return Quarantined(item_id=printable(path), reason="LINK_NOT_FOLLOWED", message=message)
