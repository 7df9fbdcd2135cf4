"""The progress bar of the commands that take more than seconds."""

import itertools
import sys
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(shown: bool) -> Progress:
    """Return a bar on stderr with what is done and the time left; nothing where stderr is a file,
    or `shown` is False. What is printed to a terminal meanwhile stands above it.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        disable=not (shown and sys.stderr.isatty()),
    )


def parts_of(bar: Progress, total: int) -> Callable[[str], None]:
    """Return what tells a bar which of so many parts begins, and that those before it are done."""
    task, number = bar.add_task("", total=total), itertools.count()
    return lambda name: bar.update(task, completed=next(number), description=name)


def starter(bar: Progress, size: int) -> Callable[[str, int | None], Callable[[int], None]]:
    """Return what adds a task to a bar by name and total, and returns what advances it.

    The task counts the samples of all `size` processes, at the pace of this one.
    """

    def begin(name: str, total: int | None) -> Callable[[int], None]:
        task = bar.add_task(name, total=total)
        return lambda n: bar.advance(task, n * size)

    return begin
