"""WebDataset: tar archives in which the members of one sample share a name up to the first dot.

One archive, or a folder of archives (``shards/000000.tar`` and so on), which are read one after the
other. The image of a sample is an item; ``.cls`` is its label; what ``.json`` says is metadata, and
``.txt`` its ``caption``. Ids are ``ARCHIVE/KEY`` for a folder, ``KEY`` for one archive.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vicinal.corpus import IMAGE_SUFFIXES, MAX_ITEM_BYTES, CorpusItem, CorpusSpec, Quarantined
from vicinal.errors import InvalidCorpusError, InvalidImageError
from vicinal.item_names import member_path, printable
from vicinal.tar_members import COMPRESSED_SUFFIXES, PLAIN_SUFFIXES, TarMembers
from vicinal.typed_text import plain

OPTIONS: tuple[str, ...] = ()

_SUFFIXES = (*PLAIN_SUFFIXES, *COMPRESSED_SUFFIXES)
_MAX_NOTES_BYTES = 1 << 20


def recognises(location: str) -> bool:
    """Says whether the location is a folder of tar archives; one archive is read so when it is asked for."""
    place = Path(location)
    if not place.is_dir() or not _archives(place):
        return False
    seen = [path for path in place.iterdir() if not path.name.startswith(".")]
    return not any(path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES for path in seen)


@dataclass(slots=True)
class _Sample:
    key: str
    image: tarfile.TarInfo | None = None
    refused: Quarantined | None = None
    notes: dict[str, tarfile.TarInfo] = field(default_factory=dict)


class Reader:
    """Tar archives of samples."""

    concurrency = 0

    def __init__(self, spec: CorpusSpec) -> None:
        place = Path(spec.location)
        paths = [place] if place.is_file() else _archives(place)
        if not paths:
            raise InvalidCorpusError(f"{place} has no tar archives; wanted names such as 000000.tar")
        self._alone = place.is_file()
        self._archives: dict[str, TarMembers] = {}
        try:
            for path in paths:
                self._archives[path.name] = TarMembers(path)
        except BaseException:
            self.close()
            raise
        self.sequential = any(archive.packed for archive in self._archives.values())

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the samples' images in the order of the archives."""
        for name, archive in self._archives.items():
            if not self._alone and not f"{name}/".startswith(under) and not under.startswith(f"{name}/"):
                continue
            mtime = archive.path.stat().st_mtime_ns
            for sample in _samples(archive):
                if sample.refused is not None:
                    yield sample.refused
                elif sample.image is not None:
                    yield self._item(name, archive, sample, mtime)

    def _item(self, name: str, archive: TarMembers, sample: _Sample, mtime: int) -> CorpusItem | Quarantined:
        image = sample.image
        assert image is not None, "called for samples with an image"
        item_id = sample.key if self._alone else f"{name}/{sample.key}"
        if image.size > MAX_ITEM_BYTES:
            message = f"it has {image.size} bytes, at most {MAX_ITEM_BYTES} are read"
            return Quarantined(item_id=item_id, reason="TOO_LARGE", message=message)
        try:
            label, metadata = _notes(archive, sample)
        except (ValueError, RecursionError, InvalidImageError) as error:
            return Quarantined(
                item_id=item_id, reason="BAD_NOTES", message=f"its .json, .cls or .txt is wrong: {error}"
            )
        return CorpusItem(
            item_id=item_id,
            path=f"{item_id}{Path(image.name).suffix.lower()}",
            label=label,
            metadata=metadata,
            stamp=f"{image.size}-{image.offset_data}-{mtime}",
            locator=f"{image.offset_data}+{image.size}+{name}",
        )

    def read(self, item: CorpusItem) -> bytes:
        """Returns the bytes of the sample's image."""
        offset, size, name = item.locator.split("+", 2)
        if name not in self._archives:
            raise InvalidImageError(f"{item.item_id!r} was in {name}, which is gone")
        return self._archives[name].read(int(offset), int(size))

    def close(self) -> None:
        """Closes the archives."""
        for archive in self._archives.values():
            archive.close()


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIXES) and path.is_file())


def _samples(archive: TarMembers) -> Iterator[_Sample]:
    """Yields runs of members of one key; a key may hold folders, its base name ends at the first dot."""
    sample: _Sample | None = None
    for member in archive.scan():
        if not member.isreg() or member.issparse():
            continue
        path = member_path(member.name)
        if isinstance(path, Quarantined):
            yield _Sample(key=path.item_id, refused=path)
            continue
        folder, slash, base = path.rpartition("/")
        stem, _, suffix = base.partition(".")
        key = f"{folder}{slash}{stem}"
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key=key)
        if f".{suffix.lower()}" in IMAGE_SUFFIXES:
            sample.image = sample.image or member
        else:
            sample.notes[suffix.lower()] = member
    if sample is not None:
        yield sample


def _notes(archive: TarMembers, sample: _Sample) -> tuple[str | None, dict[str, Any]]:
    """Returns label and metadata of a sample."""
    metadata: dict[str, Any] = {}
    if "json" in sample.notes:
        value = json.loads(_text(archive, sample.notes["json"]))
        if not isinstance(value, dict):
            raise ValueError(f"wanted an object, got {type(value).__name__}")
        metadata = {str(name): plain(one) for name, one in value.items() if name}
    if "txt" in sample.notes:
        metadata["caption"] = _text(archive, sample.notes["txt"]).strip()
    label = _text(archive, sample.notes["cls"]).strip() if "cls" in sample.notes else metadata.pop("label", None)
    return (None if label is None else printable(str(label))), metadata


def _text(archive: TarMembers, member: tarfile.TarInfo) -> str:
    if member.size > _MAX_NOTES_BYTES:
        raise ValueError(f"{member.name} has {member.size} bytes, at most {_MAX_NOTES_BYTES} are read")
    return archive.read(member.offset_data, member.size).decode()
