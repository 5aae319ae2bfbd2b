"""Members of a tar archive, plain or compressed, in bounded memory and without extracting any.

Offsets are those in the unpacked stream, so plain and compressed archives are read alike; in a
compressed one going back starts again from the front.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from vicinal.errors import InvalidCorpusError, InvalidImageError

PLAIN_SUFFIXES = (".tar",)
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)
_MAX_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 512


class _Headers:
    """What tarfile may do to the stream: a header of a hostile size must not be read into memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes, at most {_MAX_HEADER_BYTES} are read")
        return self._stream.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


class TarMembers:
    """A tar archive.

    Args:
        path: the archive.

    Raises:
        InvalidCorpusError: it is not a tar archive or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._stream, self.packed = _open(path)
        except OSError as error:
            raise InvalidCorpusError(f"cannot read the archive {path}: {error.strerror or error}") from error
        self._descriptor = -1 if self.packed else self._stream.fileno()
        try:
            next(self.scan(), None)
        except BaseException:
            self._stream.close()
            raise

    def scan(self) -> Iterator[tarfile.TarInfo]:
        """Yields every member in the order of the archive.

        Raises:
            InvalidCorpusError: the archive is cut short or damaged; what came before was yielded.
        """
        stream, _ = _open(self.path)
        with stream:
            last = "the start"
            try:
                archive = tarfile.open(fileobj=cast("IO[bytes]", _Headers(stream)), mode="r:")  # noqa: SIM115
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of millions
                    last = repr(member.name)
                    yield member
                stream.seek(archive.offset)
                rest = stream.read(_BLOCK_BYTES)
                if rest.strip(b"\0") or len(rest) % _BLOCK_BYTES:
                    raise tarfile.ReadError("no whole header where one should be")
            except _BROKEN as error:
                raise InvalidCorpusError(
                    f"the archive {self.path} is cut short or damaged after {last} ({error}); copy or pack it again"
                ) from error

    def read(self, offset: int, size: int) -> bytes:
        """Returns a part of the unpacked archive; thread-safe.

        Args:
            offset: first byte, from 0.
            size: bytes wanted; the caller has bounded it.

        Raises:
            InvalidImageError: the archive ends before, or is damaged there.
        """
        try:
            if self._descriptor >= 0:
                content = os.pread(self._descriptor, size, offset)
            else:
                with self._lock:
                    self._stream.seek(offset)
                    content = self._stream.read(size)
        except _BROKEN as error:
            raise InvalidImageError(f"the archive {self.path.name} is damaged at byte {offset}: {error}") from error
        if len(content) != size:
            raise InvalidImageError(f"the archive {self.path.name} is cut short at byte {offset}")
        return content

    def close(self) -> None:
        """Closes the archive."""
        self._stream.close()


def _open(path: Path) -> tuple[IO[bytes], bool]:
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(path)), True
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(path)), True
    if magic == b"\xfd7zXZ\x00":
        return cast("IO[bytes]", lzma.LZMAFile(path)), True
    return path.open("rb"), False
