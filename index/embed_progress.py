"""The progress bar of the embed job, with its rate and the time left."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from index.embed_rank import Totals


class EmbedBar:
    """Shows the progress of an embed job.

    Args:
        console: where to; progress is shown only on a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("embed"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[notes]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._resumed = 0

    def update(self, totals: Totals) -> None:
        """Shows how far the job is."""
        if self._task is None:
            # What an earlier run did is no part of the rate, and so of the time left.
            self._resumed = totals.resumed
            self._task = self._progress.add_task("", total=totals.total - self._resumed, rate="", notes="")
        done = totals.done - self._resumed
        speed = self._progress.tasks[0].speed
        notes = [f"{totals.resumed} resumed"] * bool(totals.resumed) + [f"{totals.known} known"] * bool(totals.known)
        notes += [f"{totals.quarantined} quarantined"] * bool(totals.quarantined)
        rate = f"{speed:,.0f}/s" if speed else ""
        self._progress.update(self._task, completed=done, rate=rate, notes=", ".join(notes))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
