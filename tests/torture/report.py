"""What the long variants show: progress while they run, and a table at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Part:
    """One part of the run: how far it is, and what it has found."""

    def __init__(self, progress: Progress, name: str, total: float) -> None:
        self.figures: list[str] = []
        self.faults: list[str] = []
        self._progress = progress
        self._task = progress.add_task(name, total=total, status="")

    def show(self, done: float, status: str) -> None:
        """Show how much is done, and the figures so far."""
        self._progress.update(self._task, completed=done, status=status)

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
        self._parts: list[tuple[str, Part]] = []

    @contextmanager
    def part(self, name: str, total: float) -> Iterator[Part]:
        """Show the progress of a part; what it raises is a broken promise."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            part = Part(progress, name, total)
            self._parts.append((name, part))
            try:
                yield part
            except Exception as error:  # noqa: BLE001 - the other parts are still run
                self._console.print_exception()
                part.faults.append(repr(error))

    def close(self) -> bool:
        """Print the table; say whether every promise was kept."""
        table = Table("part", "figures", "verdict", title=f"Torture, seed {self.seed}")
        for name, part in self._parts:
            verdict = "\n".join(part.faults) or "kept"
            table.add_row(name, "\n".join(part.figures), verdict)
        self._console.print(table)
        return not any(part.faults for _, part in self._parts)
