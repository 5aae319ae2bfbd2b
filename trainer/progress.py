"""Progress bars and sentences on stderr."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainer.listener import Listener
from trainer.watch import Report


@contextlib.contextmanager
def listening() -> Iterator[Listener]:
    """Gives a listener that draws bars on stderr."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[line]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def task(name: str) -> TaskID:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=1.0, line="")
            return tasks[name]

        def reading(word: str, done: int, total: int) -> None:
            bars.update(task(word), completed=done, total=total, line=f"{done} of {total} images")

        def report(state: Report) -> None:
            bars.update(task("train"), completed=state.progress, line=state.line())

        yield Listener(said=console.print, reading=reading, report=report)
