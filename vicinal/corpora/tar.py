"""A tar archive of image files, plain or compressed, read in place.

A plain archive is read at random by the offsets found in the scan; a compressed one only in
order, so that its reader is ``sequential``.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from vicinal.corpus import MAX_ITEM_BYTES, CorpusItem, CorpusSpec, Quarantined
from vicinal.item_names import is_image_name, label_of, member_path
from vicinal.tar_members import COMPRESSED_SUFFIXES, PLAIN_SUFFIXES, TarMembers

OPTIONS: tuple[str, ...] = ()


def recognises(location: str) -> bool:
    """Says whether the location is a file named like a tar archive."""
    return location.lower().endswith((*PLAIN_SUFFIXES, *COMPRESSED_SUFFIXES)) and Path(location).is_file()


class Reader:
    """A tar archive of image files."""

    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        self._members = TarMembers(Path(spec.location))
        self.sequential = self._members.packed
        self._mtime = Path(spec.location).stat().st_mtime_ns

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:  # noqa: ARG002 - read from its front
        """Yields the images in the order of the archive."""
        for member in self._members.scan():
            if not is_image_name(member.name) or member.isdir():
                continue
            path = member_path(member.name)
            if isinstance(path, Quarantined):
                yield path
            else:
                yield self._item(path, member)

    def _item(self, path: str, member: tarfile.TarInfo) -> CorpusItem | Quarantined:
        if not member.isreg() or member.issparse():
            message = "it is a link, a sparse file or a device in the archive; pack the archive with --dereference"
            return Quarantined(item_id=path, reason="NOT_A_FILE", message=message)
        if member.size > MAX_ITEM_BYTES:
            message = f"it has {member.size} bytes, at most {MAX_ITEM_BYTES} are read"
            return Quarantined(item_id=path, reason="TOO_LARGE", message=message)
        return CorpusItem(
            item_id=path,
            path=path,
            label=label_of(path),
            stamp=f"{member.size}-{member.offset_data}-{self._mtime}",
            locator=f"{member.offset_data}+{member.size}",
        )

    def read(self, item: CorpusItem) -> bytes:
        """Returns the bytes of the member."""
        offset, _, size = item.locator.partition("+")
        return self._members.read(int(offset), int(size))

    def close(self) -> None:
        """Closes the archive."""
        self._members.close()
