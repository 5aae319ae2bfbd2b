"""Corpora: where images are read from, as items with stable ids.

A spec names a corpus: ``[name=][kind:]location[?option=value&...]``. The kind is a plugin of
``vicinal.corpora`` and is found from the location where it is not given. Options of every corpus
are ``limit``, ``offset``, ``stride`` and ``under`` (a folder inside the corpus); a kind may know
more. An item's id is its path inside the corpus, prefixed by ``name/`` where a name is given, so
it does not depend on which other corpora are read with it.

What cannot become an item (an unsafe name, a special file) is quarantined, with the reason; it
never ends a scan. Archives are read in place: no member name ever reaches the file system.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import parse_qsl

from vicinal import plugins
from vicinal.errors import InvalidCorpusError, did_you_mean

FAMILY = "vicinal.corpora"
MAX_ITEM_BYTES = 64 << 20
"""Largest encoded image that is read, in bytes; what is larger is quarantined."""
MAX_ID_BYTES = 1024
"""Longest item id, in bytes of UTF-8."""
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm")
)
"""Lower-case suffixes of file names that are taken for images."""

_NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})=(.+)$", re.DOTALL)
_KIND = re.compile(r"^([a-z][a-z0-9_]*):(?!//)(.+)$", re.DOTALL)
_COMMON_OPTIONS = ("limit", "offset", "stride", "under")

MetadataValue = bool | int | float | str | datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusItem:
    """One image of a corpus, not yet read."""

    item_id: str
    """Stable id: printable, at most 1,024 bytes of UTF-8."""
    path: str
    """Path inside the corpus, printable."""
    label: str | None = None
    """Class named by the folder or label file; for evaluation only."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """Typed values of the corpus manifest."""
    stamp: str = ""
    """Cheap hint that the content changed, such as size and time; empty when there is none."""
    locator: str = ""
    """What the reader itself needs to find the bytes again; opaque to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Something in a corpus that did not become an embedded item."""

    item_id: str
    """Id, or the printable name where it has no valid id."""
    reason: str
    """One word for machines, such as ``UNSAFE_NAME`` or ``INVALID_IMAGE``."""
    message: str
    """One sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSpec:
    """A spec, taken apart."""

    text: str
    """The spec as it was given."""
    name: str
    """Prefix of the item ids; empty for none."""
    kind: str
    """Plugin that reads it."""
    location: str
    """Path or URL."""
    options: Mapping[str, str]
    """Options after the question mark."""


class Reader(Protocol):
    """What a plugin of ``vicinal.corpora`` has under the name ``Reader``; made from a CorpusSpec.

    A plugin also has ``recognises(location) -> bool`` and ``OPTIONS``, the options that it knows
    besides those of every corpus.
    """

    @property
    def sequential(self) -> bool:
        """True where reading is only fast in the order of the scan, by one thread."""

    @property
    def concurrency(self) -> int:
        """Reads worth having in flight at once; 0 where the processors set the pace and not the way there."""

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields everything in a stable order, ids not yet prefixed.

        Args:
            under: folder with a trailing slash, or empty: a reader may skip what lies elsewhere.
        """

    def read(self, item: CorpusItem) -> bytes:
        """Returns the encoded image; thread-safe.

        Args:
            item: an item of this corpus, from this process or an earlier one.

        Raises:
            InvalidImageError: it is gone, unreadable, damaged in its archive, or over ``MAX_ITEM_BYTES``.
            UnavailableError: the store cannot be reached; nothing is known of the item.
        """

    def close(self) -> None:
        """Frees what the reader holds open."""


class Corpus:
    """Items in a stable order, and their bytes; made by ``open_corpus``.

    Args:
        spec: the spec, taken apart.
        reader: what reads that location.

    Raises:
        InvalidCorpusError: an option has a wrong value.
    """

    def __init__(self, spec: CorpusSpec, reader: Reader) -> None:
        self.spec = spec.text
        self.source = spec.name or PurePosixPath(spec.location.rstrip("/")).name or spec.location
        self.prefix = f"{spec.name}/" if spec.name else ""
        self.sequential = reader.sequential
        self.concurrency = reader.concurrency
        self.read = reader.read
        self.close = reader.close
        self._reader = reader
        self._limit = _whole(spec, "limit", default=None, least=1)
        self._offset = _whole(spec, "offset", default=0, least=0) or 0
        self._stride = _whole(spec, "stride", default=1, least=1) or 1
        under = spec.options.get("under", "").strip("/")
        self._under = f"{under}/" if under else ""

    def scan(self) -> Iterator[CorpusItem | Quarantined]:
        """Yields the selected items and what was quarantined among them, in a stable order."""
        found = (entry for entry in self._reader.entries(self._under) if entry.item_id.startswith(self._under))
        stop = None if self._limit is None else self._offset + self._limit * self._stride
        for entry in itertools.islice(found, self._offset, stop, self._stride):
            yield self._checked(entry)

    def _checked(self, entry: CorpusItem | Quarantined) -> CorpusItem | Quarantined:
        item_id = self.prefix + entry.item_id
        if isinstance(entry, Quarantined):
            return Quarantined(item_id=item_id, reason=entry.reason, message=entry.message)
        if len(item_id.encode()) > MAX_ID_BYTES:
            message = f"its id has {len(item_id.encode())} bytes, at most {MAX_ID_BYTES} are allowed; shorten the path"
            return Quarantined(item_id=item_id[:200] + "...", reason="ID_TOO_LONG", message=message)
        return CorpusItem(
            item_id=item_id,
            path=entry.path,
            label=entry.label,
            metadata=entry.metadata,
            stamp=entry.stamp,
            locator=entry.locator,
        )

    def __iter__(self) -> Iterator[CorpusItem]:
        """Yields the selected items."""
        return (entry for entry in self.scan() if isinstance(entry, CorpusItem))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole(spec: CorpusSpec, key: str, *, default: int | None, least: int) -> int | None:
    text = spec.options.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and least <= int(text[:19]) and len(text) < 19):
        raise InvalidCorpusError(f"corpus {spec.text!r}: {key} is {text!r}, wanted a whole number from {least}")
    return int(text)


def parse_spec(text: str) -> CorpusSpec:
    """Takes a spec apart and finds its kind.

    Args:
        text: ``[name=][kind:]location[?option=value&...]``; a path that exists is taken as it stands.

    Raises:
        InvalidCorpusError: nothing is there, or no reader knows what is there.
    """
    name, kind, location, options = "", "", text, ""
    if not _exists(location) and (match := _NAME.match(location)):
        name, location = match.groups()
    if not _exists(location) and (match := _KIND.match(location)):
        kind, location = match.groups()
    if not _exists(location) and "?" in location:
        location, _, options = location.rpartition("?")
    pairs = _parse_options(text, options)
    if "://" not in location:
        if not _exists(location):
            raise InvalidCorpusError(f"corpus {text!r}: there is nothing at {location!r}; check the path")
        location = str(Path(location).absolute())
    if not kind:
        kind = _recognise(text, location)
    elif kind not in (known := plugins.names(FAMILY)):
        raise InvalidCorpusError(f"corpus {text!r}: unknown kind {kind!r}{did_you_mean(kind, known)}")
    return CorpusSpec(text=text, name=name, kind=kind, location=location, options=pairs)


def _parse_options(text: str, options: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(options, keep_blank_values=True, strict_parsing=bool(options)))
    except ValueError as error:
        raise InvalidCorpusError(f"corpus {text!r}: options must be like ?limit=100&under=train") from error


def _exists(location: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return bool(location) and Path(location).exists()
    return False


def _recognise(text: str, location: str) -> str:
    # The folder reader takes any directory, so it is asked last.
    order = sorted(plugins.names(FAMILY), key=lambda name: name == "folder")
    for name in order:
        if plugins.load(FAMILY, name).recognises(location):
            return name
    if Path(location).suffix.lower() in IMAGE_SUFFIXES:
        raise InvalidCorpusError(f"corpus {text!r} is one image; name the folder it is in: {Path(location).parent}")
    raise InvalidCorpusError(
        f"corpus {text!r}: no reader knows this; wanted a folder, an archive or one of {', '.join(order)}; "
        "a kind can be given, as in tar:PATH"
    )


def open_corpus(spec: str) -> Corpus:
    """Opens a corpus.

    Args:
        spec: ``[name=][kind:]location[?option=value&...]``, such as ``photos/``, ``shoes=photos.zip``,
            ``train.tar?limit=1000`` or ``idx:fashion-mnist?split=train``.

    Returns:
        The corpus, which has at least one image.

    Raises:
        InvalidCorpusError: a wrong path or option, a broken archive, or no images; says what to do.
    """
    parsed = parse_spec(spec)
    plugin = plugins.load(FAMILY, parsed.kind)
    known = (*_COMMON_OPTIONS, *plugin.OPTIONS)
    for key in parsed.options:
        if key not in known:
            raise InvalidCorpusError(f"unknown option {key!r} in corpus {spec!r}{did_you_mean(key, known)}")
    corpus = Corpus(parsed, plugin.Reader(parsed))
    try:
        for _ in corpus:
            return corpus
        bad = next(corpus.scan(), None)
    except BaseException:
        corpus.close()
        raise
    corpus.close()
    why = f"; the first entry is {bad.item_id!r}: {bad.message}" if isinstance(bad, Quarantined) else ""
    chosen = " that the options select" if parsed.options else ""
    raise InvalidCorpusError(f"corpus {spec!r} has no images{chosen}{why}; wanted files such as .jpg; check the path")


def open_corpora(specs: Sequence[str]) -> list[Corpus]:
    """Opens several corpora; none stays open when one of them is wrong.

    Raises:
        InvalidCorpusError: as for ``open_corpus``, or the list is empty or names one twice.
    """
    if not specs:
        raise InvalidCorpusError("no corpus was named; name a folder, an archive or a manifest of images")
    for spec in specs:
        if specs.count(spec) > 1:
            raise InvalidCorpusError(f"corpus {spec!r} is named twice; name it once")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_corpus(spec)) for spec in specs]
        stack.pop_all()
    return opened
