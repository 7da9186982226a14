"""Progress on standard error: a bar on a terminal, elsewhere a line now and then."""

import time
from contextlib import suppress
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_PAUSE = 5.0  # seconds between two lines


class Progress:
    """Shows one step of the work after the other, from `begin` on."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._silent_until = 0.0

    def __enter__(self) -> Self:
        """Show the bars of a terminal."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last step as it is."""
        self._say()
        self._bars.stop()

    def begin(self, step: str, total: int | None, done: int = 0) -> None:
        """Begin a step, of which some may be done already; not always is the total known."""
        self._say()
        self._bars.add_task(step, total=total, completed=done)
        self._silent_until = time.monotonic() + _PAUSE

    def advance(self, number: int) -> None:
        """Count what was done since."""
        self._bars.advance(self._bars.task_ids[-1], number)
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _PAUSE
            self._say()

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        if not self._bars.disable:
            self._console.print(line, markup=False)
            return
        # Where it cannot be written, the work goes on, or it would be done again.
        with suppress(OSError):
            typer.echo(line, err=True)

    def _say(self) -> None:
        """Say how far the step is, where no bar shows it."""
        if self._bars.disable:
            for step in self._bars.tasks[-1:]:
                total = "" if step.total is None else f" of {step.total:,}"
                self.say(f"{step.description} {step.completed:,}{total} heroes")
