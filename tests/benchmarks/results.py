"""The results: the figures of every run, their medians, and ratios between servers."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from .load import Figures


@dataclass(frozen=True)
class Cell:
    """What is measured once in each round."""

    work: str
    connections: int
    server: str


@dataclass
class Results:
    """Figures by cell, in the order of the rounds; and the servers that were left out, and why."""

    runs: dict[Cell, list[Figures]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    # Seconds until the first answer, and to import what it needs, side by side.
    starts: list[tuple[float, float]] = field(default_factory=list)

    def add(self, cell: Cell, figures: Figures) -> None:
        """Record the figures of one run."""
        self.runs.setdefault(cell, []).append(figures)

    def medians(self, cell: Cell) -> Figures | None:
        """Return the median of each figure; all errors; hung if it was so once."""
        runs = self.runs.get(cell)
        if not runs:
            return None
        return Figures(
            rate=median(run.rate for run in runs),
            cpu=_median(run.cpu for run in runs),
            p50=_median(run.p50 for run in runs),
            p99=_median(run.p99 for run in runs),
            longest=_median(run.longest for run in runs),
            errors=sum(run.errors for run in runs),
            memory=max(run.memory for run in runs),
            size=_median(run.size for run in runs),
            disturbed=max(run.disturbed for run in runs),
            hung=any(run.hung for run in runs),
        )

    def rate_ratio(self, one: Cell, other: Cell) -> float | None:
        """Return the median, over the rounds, of how many times as fast `one` was as `other`."""
        return self._ratio(one, other, lambda run: run.rate)

    def cost_ratio(self, one: Cell, other: Cell) -> float | None:
        """Return the median, over the rounds, of the CPU time of `one` to that of `other`."""
        return self._ratio(one, other, lambda run: run.cpu)

    def p50_ratio(self, one: Cell, other: Cell) -> float | None:
        """Return the median, over the rounds, of the p50 of `one` to that of `other`."""
        return self._ratio(one, other, lambda run: run.p50)

    def disturbance(self) -> tuple[float, float]:
        """Return the share of the server's core that others took: its median, and the greatest."""
        shares = [run.disturbed for runs in self.runs.values() for run in runs]
        return (median(shares), max(shares)) if shares else (0.0, 0.0)

    def start_ratio(self) -> float | None:
        """Return the median of the time to the first answer to the time of the imports."""
        return _median(first / imports for first, imports in self.starts)

    def _ratio(
        self, one: Cell, other: Cell, figure: Callable[[Figures], float | None]
    ) -> float | None:
        ones: Sequence[Figures] = self.runs.get(one, ())
        others: Sequence[Figures] = self.runs.get(other, ())
        # Rounds are compared with themselves: a machine that is slow for a while is so for both.
        pairs = [(figure(a), figure(b)) for a, b in zip(ones, others, strict=False)]
        return _median(a / b for a, b in pairs if a is not None and b)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
