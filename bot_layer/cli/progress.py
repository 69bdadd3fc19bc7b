"""The progress of long work as text: "136 of about 400", or "136" if the total is unknown."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


def counted(done: float, total: float | None, *, is_exact: bool = False) -> str:
    """The progress text. ``is_exact`` means that the total is counted, not estimated."""
    if total is None or done > total:
        return f"{done:.0f}"
    return f"{done:.0f} of {'' if is_exact else 'about '}{total:.0f}"


class CountColumn(ProgressColumn):
    """The text beside a progress bar."""

    def __init__(self, *, is_exact: bool = False) -> None:
        self._is_exact = is_exact
        super().__init__()

    def render(self, task: Task) -> Text:
        """The column's text for a task."""
        return Text(counted(task.completed, task.total, is_exact=self._is_exact), style="progress.download")


def bar(console: Console, *, hidden: bool = False, is_exact: bool = True) -> Progress:
    """A progress bar for countable work; it shows nothing unless the output is a terminal.

    What the work prints to a terminal appears above the bar; output redirected to a file stays there.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        CountColumn(is_exact=is_exact),
        TimeRemainingColumn() if is_exact else TimeElapsedColumn(),
    )
    is_hidden = hidden or not console.is_terminal
    return Progress(*columns, console=console, disable=is_hidden, redirect_stdout=sys.stdout.isatty())
