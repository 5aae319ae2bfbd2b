"""Several corpora read as one: a text file with a spec on each line, such as ``all.corpora``.

Empty lines and lines that begin with ``#`` are passed over. Paths in it are taken as on the command
line, from the working directory.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vicinal.corpus import Corpus, CorpusItem, CorpusSpec, Quarantined, open_corpora, parse_spec
from vicinal.errors import InvalidCorpusError

OPTIONS: tuple[str, ...] = ()
SUFFIX = ".corpora"
_MOST_BYTES = 1 << 20


def recognises(location: str) -> bool:
    """Says whether the location is a file whose name ends in ``.corpora``."""
    return location.endswith(SUFFIX) and Path(location).is_file()


class Reader:
    """The corpora of a list, one after the other."""

    def __init__(self, spec: CorpusSpec) -> None:
        specs = _read(Path(spec.location), spec.text)
        for text in specs:
            if parse_spec(text).kind == "list":
                raise InvalidCorpusError(
                    f"corpus {spec.text!r} lists {text!r}, itself a list; name its corpora instead"
                )
        self._stack = contextlib.ExitStack()
        self._corpora: list[Corpus] = [self._stack.enter_context(corpus) for corpus in open_corpora(specs)]
        self.sequential = any(corpus.sequential for corpus in self._corpora)
        self.concurrency = max(corpus.concurrency for corpus in self._corpora)

    def entries(self, under: str) -> Iterator[CorpusItem | Quarantined]:
        """Yields the items of each corpus; ids are those of the corpora themselves."""
        del under
        for number, corpus in enumerate(self._corpora):
            for entry in corpus.scan():
                if isinstance(entry, CorpusItem):
                    yield replace(entry, locator=f"{number}:{entry.locator}")
                else:
                    yield entry

    def read(self, item: CorpusItem) -> bytes:
        """Returns the encoded image from the corpus that the item is of."""
        number, _, locator = item.locator.partition(":")
        return self._corpora[int(number)].read(replace(item, locator=locator))

    def close(self) -> None:
        """Closes every corpus."""
        self._stack.close()


def _read(path: Path, text: str) -> list[str]:
    try:
        with path.open(encoding="utf-8") as stream:
            lines = [line.strip() for line in stream.read(_MOST_BYTES).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidCorpusError(f"corpus {text!r} cannot be read: {error}") from error
    return [line for line in lines if line and not line.startswith("#")]
