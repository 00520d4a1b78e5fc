"""Progress on the terminal: one bar a stage, with rate and time left."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from ..events import Progress


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


class Terminal:
    """A Watch that draws bars on standard error, and stays silent where that is no terminal."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        # Results go to standard output past the bars, which would otherwise take them to standard error.
        self._bars = Bars(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self._stage: str | None = None
        self._task = None

    def __enter__(self) -> Terminal:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def clear(self) -> None:
        """Take the bar away, so that a line can be printed where it was."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.refresh()
        self._task, self._stage = None, None

    def __call__(self, event: Progress) -> None:
        if event.stage != self._stage or event.done == 0:
            self.clear()
            self._task = self._bars.add_task(event.stage, total=event.total)
            self._stage = event.stage
        if self._task is not None:
            self._bars.update(self._task, completed=event.done, total=event.total)
