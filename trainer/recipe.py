"""Recipes: settings of runs that were really made, with what came of them.

trainer/recipes/NAME.toml

title = "..."                       one line for people
command = "vicinal pretrain ..."    that was, or would be, run
note = "..."                        optional
[config]                            settings as of ``--config``
[[results]]                         one for each measurement; none: it has not been run
data = "..."  date = 2026-11-22  machine = "..."  commit = "..."  seconds = 121.0  seeds = 1
file = "benchmarks/results/..."     optional
scores = { knn = 0.84 }             fractions in [0, 1]
"""

import datetime as dt
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files

from vicinal.config import from_mapping
from vicinal.errors import InvalidArgumentError, did_you_mean
from vicinal.types import JsonObject

NOT_RUN = "has not been run here: no scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a recipe once."""

    data: str
    """What it was trained and scored on."""
    date: dt.date
    """When."""
    machine: str
    """On what."""
    commit: str
    """With which version of the code."""
    seconds: float
    """Of training."""
    seeds: int
    """Runs that the scores are means of."""
    scores: dict[str, float]
    """Fractions in [0, 1] by name."""
    file: str = ""
    """The result file, in the repository."""

    def line(self) -> str:
        """Returns one line for people."""
        scores = ", ".join(f"{name} {100 * value:.1f}%" for name, value in self.scores.items())
        seeds = f"{self.seeds} seed{'s' if self.seeds > 1 else ''}"
        return f"{self.data}: {scores} ({self.seconds:.0f} s, {seeds}, {self.machine}, {self.date}, {self.commit})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings with a name."""

    title: str
    """One line for people."""
    command: str
    """That was, or would be, run."""
    note: str = ""
    """What else there is to know."""
    config: JsonObject = field(default_factory=dict)
    """Settings, as a file of ``--config`` has them."""
    results: tuple[Measured, ...] = ()
    """What came of it; empty where it has not been run."""

    def lines(self) -> list[str]:
        """Returns title, command and results, for people."""
        results = [result.line() for result in self.results] or [NOT_RUN]
        return [self.title, self.command, *([self.note] if self.note else []), *results]


def names() -> tuple[str, ...]:
    """Returns the sorted names of the recipes."""
    found = (entry.name for entry in files("trainer.recipes").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def load(name: str) -> Recipe:
    """Reads a recipe.

    Raises:
        InvalidArgumentError: no such recipe; the message suggests one.
    """
    known = names()
    if name not in known:
        raise InvalidArgumentError(f"unknown recipe {name!r}{did_you_mean(name, known)}", field="recipe")
    text = (files("trainer.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    return from_mapping(Recipe, tomllib.loads(text), where=f"recipe {name}")
