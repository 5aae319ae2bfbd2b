"""A folder of image files behind a URL: S3, GCS, Azure, HTTP, SFTP and whatever else fsspec speaks.

Credentials and endpoints come from where the store's own package takes them (for S3: the AWS
environment variables and files, ``AWS_ENDPOINT_URL`` among them), never from the spec.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError, InvalidImageError, UnavailableError
from vicinal.item_names import is_image_name, label_of, printable

OPTIONS: tuple[str, ...] = ()

_VERSIONS = ("ETag", "etag", "LastModified", "mtime", "created")
_WAITS_S = (0.2, 1.0, 3.0)
T = TypeVar("T")


def recognises(location: str) -> bool:
    """Says whether the location is a URL."""
    return "://" in location


class Reader:
    """A folder of image files behind a URL."""

    sequential = False
    concurrency = 32

    def __init__(self, spec: CorpusSpec) -> None:
        import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415 - takes a while, and only this reader needs it

        self._url = spec.location
        scheme = spec.location.partition("://")[0]
        try:
            self._fs, root = fsspec.url_to_fs(spec.location, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise InvalidCorpusError(f"{self._url}: {scheme} needs a package more: {error}") from error
        except (ValueError, OSError, TypeError) as error:
            raise InvalidCorpusError(f"{self._url} cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")
        if not self._try(lambda: self._fs.isdir(self._root), "look for"):
            raise InvalidCorpusError(
                f"there is no folder at {self._url}; check the URL, and the endpoint if it is yours"
            )

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the images below the folder, depth first, each folder in the order of its names."""
        stack = [self._root]
        while stack:
            place = stack.pop()
            listing = sorted(self._try(partial(self._fs.ls, place, detail=True), "list"), key=_name_of)
            folders = []
            for info in listing:
                path = _name_of(info).removeprefix(self._root).strip("/")
                if info["type"] == "directory":
                    shown = printable(path) + "/"
                    if path and (shown.startswith(under) or under.startswith(shown)):
                        folders.append(_name_of(info))
                elif is_image_name(path):
                    yield _item(path, info)
            stack.extend(reversed([folder for folder in folders if folder.rstrip("/") != place]))

    def read(self, item: CorpusItem) -> bytes:
        """Returns the bytes of the object."""
        path = unquote(item.locator) if item.locator else item.path
        try:
            content: bytes = self._try(lambda: self._fs.cat_file(f"{self._root}/{path}"), "read")
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise InvalidImageError(f"cannot read {item.item_id!r}: {type(error).__name__}") from error
        if len(content) > MAX_ITEM_BYTES:
            raise InvalidImageError(f"{item.item_id!r} has {len(content)} bytes, at most {MAX_ITEM_BYTES} are read")
        return content

    def close(self) -> None:
        """Leaves the connection to fsspec, which shares it."""

    def _try(self, call: Callable[[], T], verb: str) -> T:
        """Calls the store, again after a while when it fails; what does not exist is not tried again."""
        for wait_s in (*_WAITS_S, None):
            try:
                return call()
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except Exception as error:
                if wait_s is None:
                    raise UnavailableError(
                        f"cannot {verb} {self._url}: {str(error) or type(error).__name__}; when it is back, run the "
                        "same command again: it goes on where it was"
                    ) from error
                time.sleep(wait_s)
        raise AssertionError


def _name_of(info: dict[str, Any]) -> str:
    return str(info["name"])


def _item(path: str, info: dict[str, Any]) -> CorpusItem | Quarantined:
    shown = printable(path)
    size = info.get("size") or 0
    if size > MAX_ITEM_BYTES:
        message = f"it has {size} bytes, at most {MAX_ITEM_BYTES} are read"
        return Quarantined(item_id=shown, reason="TOO_LARGE", message=message)
    version = next(
        (str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created") if info.get(key)), ""
    )
    return CorpusItem(
        item_id=shown,
        path=shown,
        label=label_of(shown),
        # Without a version a size alone says too little.
        stamp=f"{size}-{version.strip(chr(34))}" if version else "",
        locator="" if shown == path else quote(path),
    )
