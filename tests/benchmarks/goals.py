"""The goals: what the hero API is to reach, as ratios between servers of one run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from .results import Cell, Results
from .servers import (
    ASYNCPG,
    CEILING,
    ON_POSTGRESQL,
    OURS,
    OURS_NORMAL,
    POCKETBASE,
    PORT,
    PSYCOPG,
    STARLETTE,
    Server,
)

_USUAL = 64  # connections
_MANY = 1_000, 5_000
_ROUTES = {"get": 5.0, "first": 4.0, "pages": 4.0, "create": 5.0}
_ALL = (*_ROUTES, "mix")
_CEILING = {"get": 1.6, "first": 1.7, "pages": 1.0, "create": 1.0, "mix": 1.0}
_POCKETBASE = {"get": 1.0, "pages": 2.5, "create": 1.0, "mix": 1.0}


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured, if it was: to be at least, or at most, the bound."""

    what: str
    measured: float | None
    bound: float
    at_most: bool = False
    beyond: bool = False  # to be more, or less, than the bound: equal is not enough
    unit: str = "x"
    # The same ratio by the CPU time of an answer: steadier on a machine that others use too.
    by_cpu: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None when it was not measured."""
        if self.measured is None:
            return None
        if self.measured == self.bound:
            return not self.beyond
        return (self.measured < self.bound) == self.at_most

    @property
    def verdict(self) -> str:
        """Return the verdict in words."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def goals(results: Results) -> list[Goal]:
    """Return every goal with what the results say of it."""
    return [
        *_against_others(results),
        *_on_postgresql(results),
        *_one_connection(results),
        *_many_connections(results),
        *_of_creates(results),
        *_deep(results),
        _memory(results),
        Goal("first answer, to the time of the imports", results.start_ratio(), 1.5, at_most=True),
    ]


def _against_others(results: Results) -> Iterator[Goal]:
    def goal(work: str, other: Server, bound: float, what: str, ours: Server = OURS) -> Goal:
        one, another = Cell(work, _USUAL, ours.name), Cell(work, _USUAL, other.name)
        return _faster(results, f"{work}, to {what}", one, another, bound)

    for work, bound in _CEILING.items():
        yield goal(work, CEILING, bound, "the ceiling")
    yield goal("get", STARLETTE, 0.5, "bare Starlette")
    for work, bound in _POCKETBASE.items():
        if work in {"create", "mix"}:
            yield goal(work, POCKETBASE, bound, "PocketBase: FULL to its NORMAL")
            yield goal(work, POCKETBASE, bound, "PocketBase: both NORMAL", OURS_NORMAL)
        else:
            yield goal(work, POCKETBASE, bound, "PocketBase")
    for work, bound in _ROUTES.items():
        yield goal(work, PORT, bound, "the async port")


def _on_postgresql(results: Results) -> Iterator[Goal]:
    for work in ("get", "create"):
        ours = Cell(work, _USUAL, ON_POSTGRESQL.name)
        for port in (ASYNCPG, PSYCOPG):
            theirs = Cell(work, _USUAL, port.name)
            yield _faster(results, f"{work} on PostgreSQL, to {port.name}", ours, theirs, 4.0)


def _one_connection(results: Results) -> Iterator[Goal]:
    for work in _ALL:
        bound = 1.5 if work == "get" else 1.0
        ours, port = Cell(work, 1, OURS.name), Cell(work, 1, PORT.name)
        yield _faster(results, f"{work} at 1 connection, to the async port", ours, port, bound)


def _many_connections(results: Results) -> Iterator[Goal]:
    for work, connections in product(_ALL, _MANY):
        many, usual = Cell(work, connections, OURS.name), Cell(work, _USUAL, OURS.name)
        what = f"{work} at {connections:,} connections"
        # It is to lose no more than an empty handler does.
        ceiling = results.rate_ratio(
            Cell(work, connections, CEILING.name), Cell(work, _USUAL, CEILING.name)
        )
        if ceiling is not None:
            yield _faster(results, f"{what}, to itself at 64", many, usual, ceiling)
        figures = results.medians(many)
        if figures is None or not figures.p50 or not figures.p99 or not figures.longest:
            continue
        yield Goal(f"{what}, errors", float(figures.errors), 0, at_most=True, unit="")
        if connections == min(_MANY):
            yield Goal(f"{what}, p99 to p50", figures.p99 / figures.p50, 3, at_most=True)
        else:
            turn = connections / figures.rate * 1_000
            longest = figures.longest / turn
            yield Goal(f"{what}, longest wait to a turn of all", longest, 2.5, at_most=True)


def _of_creates(results: Results) -> Iterator[Goal]:
    for work, bound in (("writes", 0.9), ("keyed", 0.75)):
        for server, where in ((OURS, ""), (ON_POSTGRESQL, " on PostgreSQL")):
            some, creates = (Cell(name, _USUAL, server.name) for name in (work, "create"))
            yield _faster(results, f"{work}{where}, to creates alone", some, creates, bound)


def _faster(results: Results, what: str, one: Cell, other: Cell, bound: float) -> Goal:
    """Return the goal that `one` answers at least `bound` times as many requests as `other`."""
    cost = results.cost_ratio(one, other)
    return Goal(
        what,
        results.rate_ratio(one, other),
        bound,
        # To be ahead is more than to be level.
        beyond=bound == 1 and other.server == POCKETBASE.name,
        by_cpu=1 / cost if cost else None,
    )


def _deep(results: Results) -> Iterator[Goal]:
    after, first = (Cell(work, 1, OURS.name) for work in ("deep-after", "deep-first"))
    what = "the page at row 1,000,000 by after, to the first"
    yield Goal(f"{what}: CPU time", results.cost_ratio(after, first), 1.2, at_most=True)
    yield Goal(f"{what}: p50", results.p50_ratio(after, first), 1.2, at_most=True)


def _memory(results: Results) -> Goal:
    peaks = [
        run.memory
        for cell, runs in results.runs.items()
        if cell.server == OURS.name
        for run in runs
    ]
    peak = max(peaks, default=None)
    return Goal("peak memory of every run", peak, 120, at_most=True, beyond=True, unit=" MB")
