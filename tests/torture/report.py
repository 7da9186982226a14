"""What the long variants show: progress while they run, and a table at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY = 30.0  # seconds: where no terminal shows the progress, lines do


class Part:
    """One part of the run: how far it is, and what it has found."""

    def __init__(self, progress: Progress, name: str, total: float) -> None:
        self.figures: list[str] = []
        self.faults: list[str] = []
        self._progress = progress
        self._name = name
        self._total = total
        self._shown = time.monotonic()
        self._task = progress.add_task(name, total=total, status="")

    def show(self, done: float, status: str) -> None:
        """Show how much is done, and the figures so far."""
        self._progress.update(self._task, completed=done, status=status)
        console, now = self._progress.console, time.monotonic()
        if not console.is_terminal and now > self._shown + _LINE_EVERY:
            self._shown = now
            console.print(f"{self._name}: {done:,.0f} of {self._total:,.0f}, {status}")

    def figure(self, text: str) -> None:
        """Note a figure for the table."""
        self.figures.append(text)

    def demand(self, promise: str, *, kept: bool) -> None:
        """Note a promise that was broken, if it was."""
        if not kept:
            self.faults.append(promise)


class Report:
    """Collects the parts of a run."""

    def __init__(self, console: Console, seed: int) -> None:
        self.seed = seed
        self._console = console
        self._parts: list[tuple[str, str, Part]] = []

    @contextmanager
    def part(self, name: str, promise: str, total: float) -> Iterator[Part]:
        """Show the progress of a part; what it raises is a broken promise."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            part = Part(progress, name, total)
            self._parts.append((name, promise, part))
            try:
                yield part
            except Exception as error:  # noqa: BLE001 - the other parts are still run
                self._console.print_exception()
                part.faults.append(repr(error))

    def close(self) -> bool:
        """Print the table, in Markdown; say whether every promise was kept."""
        lines = ["| promise | figure |", "| --- | --- |"]
        lines += [f"| {promise} | {'; '.join(part.figures)} |" for _, promise, part in self._parts]
        faults = [
            f"{name}: broken: {fault}" for name, _, part in self._parts for fault in part.faults
        ]
        for line in [*lines, "", *(faults or ["every promise was kept"])]:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        return not faults
