"""Who is told how a run goes."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.watch import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told how it goes."""

    said: Callable[[str], None]
    """A sentence for people."""
    reading: Callable[[str, int, int], None]
    """What is done to the images, how many, of how many."""
    report: Callable[[Report], None]
    """The state of the training."""


SILENT = Listener(said=lambda _: None, reading=lambda *_: None, report=lambda _: None)
