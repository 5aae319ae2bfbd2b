"""An append-only log on disk: records are acknowledged when they are flushed, and a torn end is cut off.

    DIRECTORY/000000000001.wal     segments, each named by the number of its first record

What is flushed at once is one block: its length and CRC-32 (little-endian, 4 bytes each), then its
records, each behind its length. Only the last block of the last segment can be torn by a crash;
damage before it is an error. Whole segments are dropped from the front.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from vicinal.artifact import storage_guard, sync_path
from vicinal.errors import CorruptArtifactError, InvalidArgumentError

_HEAD = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_SUFFIX = ".wal"
MAX_BLOCK_BYTES = 1 << 30
SEGMENT_BYTES = 1 << 26
"""Size from which a new segment is begun."""


class LogRewrittenError(Exception):
    """What was read before is no longer in the log: read it again from its start."""


class WriteAheadLog:
    """One log; who writes or drops holds a lock on it, who reads needs none.

    Args:
        directory: of the segments; made by the first write.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segment = ""
        self._inode = 0
        self._offset = 0

    def rewind(self) -> None:
        """Reads from the start of the log again."""
        self._segment, self._inode, self._offset = "", 0, 0

    def read_new(self, *, repair: bool) -> list[bytes]:
        """Returns the records that were not read before, and moves on behind them.

        Args:
            repair: cut off a torn record at the end; only for who holds the writers' lock.

        Raises:
            LogRewrittenError: a failed write was taken back after it had been read, or segments were dropped.
            CorruptArtifactError: a record before the last is damaged.
        """
        records: list[bytes] = []
        # The list comes first: a segment that has a follower is complete.
        names = segments(self._directory)
        if self._segment and self._segment not in names:
            raise LogRewrittenError
        for name in names[names.index(self._segment) if self._segment else 0 :]:
            if name != self._segment:
                self._segment, self._inode, self._offset = name, 0, 0
            records += self._read(repair=repair and name == names[-1])
        return records

    def append(self, bodies: Sequence[bytes], *, number: int) -> None:
        """Appends records with one flush; when this returns, they are on disk.

        Args:
            bodies: the records; the log was read to its end before.
            number: number of the first of them, should it begin a segment.

        Raises:
            InvalidArgumentError: they are too large together.
            StorageError: the disk is full or failed; none of the records is in the log.
        """
        block = b"".join(part for body in bodies for part in (_LENGTH.pack(len(body)), body))
        if len(block) > MAX_BLOCK_BYTES:
            raise InvalidArgumentError(
                f"{len(block):,} bytes to be written at once, wanted at most {MAX_BLOCK_BYTES:,}; send fewer items"
            )
        if not self._segment or self._offset >= SEGMENT_BYTES:
            self.begin_segment(number)
        data = _HEAD.pack(len(block), zlib.crc32(block)) + block
        path = self._directory / self._segment
        try:
            with storage_guard(path), path.open("r+b", buffering=0) as stream:
                stream.seek(self._offset)
                written = 0
                while written < len(data):
                    written += stream.write(data[written:])
                os.fsync(stream.fileno())
        except BaseException:
            self._cut()
            # Others may have read what is taken back. What comes next stands elsewhere, so that they notice.
            self.begin_segment(number)
            raise
        self._offset += len(data)

    def begin_segment(self, number: int) -> None:
        """Begins a new segment; one of that number that is there goes on.

        Args:
            number: number of its first record.

        Raises:
            StorageError: the disk is full or failed.
        """
        path = self._directory / f"{number:012d}{_SUFFIX}"
        with storage_guard(path):
            if not self._directory.is_dir():
                self._directory.mkdir(parents=True, exist_ok=True)
                sync_path(self._directory.parent)
                sync_path(self._directory.parent.parent)
            path.touch()
            sync_path(self._directory)
            self._segment, self._inode, self._offset = path.name, path.stat().st_ino, path.stat().st_size

    def _read(self, *, repair: bool) -> list[bytes]:
        path = self._directory / self._segment
        with storage_guard(path), path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_size < self._offset or (self._inode and status.st_ino != self._inode):
                raise LogRewrittenError
            self._inode = status.st_ino
            if status.st_size == self._offset:
                return []
            stream.seek(self._offset)
            raw = stream.read()
        records, end = _split(raw, path, self._offset)
        self._offset += end
        if repair and end < len(raw):
            self._cut()
        return records

    def _cut(self) -> None:
        path = self._directory / self._segment
        with storage_guard(path):
            os.truncate(path, self._offset)
            sync_path(path)


def segments(directory: Path) -> list[str]:
    """Returns the names of the segments of a log, oldest first."""
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIX))  # noqa: PTH208 - ten a second
    except FileNotFoundError:
        return []


def drop_segments(directory: Path, *, up_to: int) -> list[str]:
    """Drops the segments that hold only records up to a number; the last segment stays.

    Args:
        directory: of the log; the caller holds the writers' lock.
        up_to: number of the last record that nobody needs.

    Returns:
        Their names.

    Raises:
        StorageError: the disk failed.
    """
    names = segments(directory)
    firsts = [int(name.removesuffix(_SUFFIX)) for name in names]
    dropped = [name for name, follower in zip(names, firsts[1:], strict=False) if follower <= up_to + 1]
    with storage_guard(directory):
        for name in dropped:
            (directory / name).unlink()
        if dropped:
            sync_path(directory)
    return dropped


def _split(raw: bytes, path: Path, start: int) -> tuple[list[bytes], int]:
    """Returns the records of the whole blocks in some bytes of a segment, and where these end."""
    records: list[bytes] = []
    place = 0
    while place + _HEAD.size <= len(raw):
        length, crc = _HEAD.unpack_from(raw, place)
        end = place + _HEAD.size + length
        # After a loss of power there may be zeros.
        if not length or length > MAX_BLOCK_BYTES or end > len(raw):
            break
        block = memoryview(raw)[place + _HEAD.size : end]
        if zlib.crc32(block) != crc:
            if end < len(raw):
                raise CorruptArtifactError(
                    f"{path} is damaged at byte {start + place}; restore it from a copy", metadata={"file": path.name}
                )
            break
        records += _records(block)
        place = end
    return records, place


def _records(block: memoryview) -> list[bytes]:
    records, place = [], 0
    while place < len(block):
        (length,) = _LENGTH.unpack_from(block, place)
        place += _LENGTH.size + length
        records.append(bytes(block[place - length : place]))
    return records
