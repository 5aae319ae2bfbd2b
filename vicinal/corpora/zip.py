"""A zip archive of image files, read in place: members are never extracted to disk.

What a member unpacks to is bounded by ``MAX_ITEM_BYTES`` whatever its header claims.
"""

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.item_names import is_image_name, label_of, member_path

_ENCRYPTED = 0x1
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)

OPTIONS: tuple[str, ...] = ()


def recognises(location: str) -> bool:
    """Says whether the location is a file named like a zip archive."""
    return location.lower().endswith((".zip", ".cbz")) and Path(location).is_file()


class _Positional:
    """A file with a position of its own: read at by threads and forked processes without disturbing each other."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._position if size < 0 else size
        content = os.pread(self._descriptor, max(wanted, 0), self._position)
        self._position += len(content)
        return content

    def close(self) -> None:
        os.close(self._descriptor)


class Reader:
    """A zip archive of image files."""

    sequential = False
    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        try:
            self._file = _Positional(spec.location)
        except OSError as error:
            raise InvalidCorpusError(f"cannot read the archive {spec.location}: {error.strerror}") from error
        try:
            self._archive = zipfile.ZipFile(cast("IO[bytes]", self._file))
        except _BROKEN as error:
            self._file.close()
            raise InvalidCorpusError(
                f"{spec.location} is not a whole zip archive ({error}); was it cut short while it was copied?"
            ) from error
        self._by_offset: dict[int, zipfile.ZipInfo] | None = None
        self._lock = threading.Lock()

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:  # noqa: ARG002 - the directory is in memory
        """Yields the images in the order of their names."""
        members = [info for info in self._archive.infolist() if not info.is_dir() and is_image_name(info.filename)]
        members.sort(key=lambda info: (info.filename, info.header_offset))
        for info in members:
            path = member_path(info.filename)
            if isinstance(path, Quarantined):
                yield path
            elif info.flag_bits & _ENCRYPTED:
                yield Quarantined(item_id=path, reason="ENCRYPTED", message="it is encrypted; pack it again without")
            elif info.file_size > MAX_ITEM_BYTES:
                message = f"it unpacks to {info.file_size} bytes, at most {MAX_ITEM_BYTES} are read"
                yield Quarantined(item_id=path, reason="TOO_LARGE", message=message)
            else:
                yield CorpusItem(
                    item_id=path,
                    path=path,
                    label=label_of(path),
                    stamp=f"{info.file_size}-{info.CRC:08x}",
                    locator=str(info.header_offset),
                )

    def read(self, item: CorpusItem) -> bytes:
        """Returns the unpacked member, whose checksum is compared."""
        info = self._member(item)
        try:
            with self._archive.open(info) as stream:
                content = stream.read(MAX_ITEM_BYTES + 1)
        except _BROKEN as error:
            raise InvalidImageError(f"{item.item_id!r} is damaged in its archive: {error}") from error
        if len(content) > MAX_ITEM_BYTES:
            raise InvalidImageError(f"{item.item_id!r} unpacks to more than {MAX_ITEM_BYTES} bytes")
        return content

    def _member(self, item: CorpusItem) -> zipfile.ZipInfo:
        with self._lock:
            if self._by_offset is None:
                self._by_offset = {info.header_offset: info for info in self._archive.infolist()}
        info = self._by_offset.get(int(item.locator or -1))
        if info is None or member_path(info.filename) != item.path:
            raise InvalidImageError(f"{item.item_id!r} is no longer in its archive; run the command again")
        return info

    def close(self) -> None:
        """Closes the archive."""
        self._archive.close()
        self._file.close()
