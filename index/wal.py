"""An append-only log on disk: a record is acknowledged when it is flushed, and a torn end is cut off.

Each record is its length and CRC-32 (little-endian, 4 bytes each) and then its bytes. Only the
last record can be torn by a crash; damage before it is an error.
"""

import os
import struct
import zlib
from pathlib import Path

from vicinal.artifact import storage_guard, sync_path
from vicinal.errors import CorruptArtifactError

_HEAD = struct.Struct("<II")
MAX_RECORD_BYTES = 1 << 30


class WriteAheadLog:
    """One log file; its writer holds the lock of its directory.

    Args:
        path: the file; made when missing.

    Raises:
        StorageError: the disk is full or failed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        """Bytes read or written so far."""
        if not path.exists():
            with storage_guard(path):
                path.touch()
                sync_path(path.parent)

    def read_new(self, *, repair: bool) -> list[bytes]:
        """Returns the records behind the offset, and moves it.

        Args:
            repair: cut off a torn record at the end; only for who holds the writers' lock.

        Raises:
            CorruptArtifactError: a record before the last is damaged.
        """
        with storage_guard(self._path), self._path.open("rb") as stream:
            stream.seek(self.offset)
            raw = stream.read()
        records, place = [], 0
        while place + _HEAD.size <= len(raw):
            length, crc = _HEAD.unpack_from(raw, place)
            end = place + _HEAD.size + length
            body = raw[place + _HEAD.size : end]
            if end > len(raw) or length > MAX_RECORD_BYTES:
                break
            if zlib.crc32(body) != crc:
                if end < len(raw):
                    raise CorruptArtifactError(
                        f"{self._path} is damaged at byte {self.offset + place}; restore it from a copy",
                        metadata={"file": self._path.name},
                    )
                break
            records.append(body)
            place = end
        self.offset += place
        if repair and place < len(raw):
            self._cut()
        return records

    def append(self, body: bytes) -> None:
        """Appends one record; when this returns, it is on disk.

        Args:
            body: the record; the log was read to its end before.

        Raises:
            StorageError: the disk is full or failed; the record is not in the log.
        """
        assert len(body) <= MAX_RECORD_BYTES, "a record is bounded by the limits of a request"
        record = _HEAD.pack(len(body), zlib.crc32(body)) + body
        try:
            with storage_guard(self._path), self._path.open("r+b", buffering=0) as stream:
                stream.seek(self.offset)
                written = 0
                while written < len(record):
                    written += stream.write(record[written:])
                os.fsync(stream.fileno())
        except BaseException:
            self._cut()
            raise
        self.offset += len(record)

    def _cut(self) -> None:
        with storage_guard(self._path):
            os.truncate(self._path, self.offset)
            sync_path(self._path)
