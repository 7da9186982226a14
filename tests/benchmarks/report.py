"""The report: tables in the terminal, and everything as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .goals import Goal
from .load import Figures
from .results import Cell, Results
from .servers import CEILING, SERVERS

_COLUMNS = ("server", "requests/s", "of ceiling", "CPU µs", "p50 ms", "p99 ms", "errors", "peak MB")

_QUIET = 0.03  # the share of a core that background work may take


def show(console: Console, results: Results, titles: Mapping[str, str]) -> None:
    """Print a table for each work and number of connections; `titles` has the works' titles."""
    for work, connections in dict.fromkeys((cell.work, cell.connections) for cell in results.runs):
        plural = "connection" if connections == 1 else "connections"
        table = _table(f"{titles[work]}, {connections:,} {plural}", _COLUMNS)
        for name in SERVERS:
            figures = results.medians(Cell(work, connections, name))
            if figures is not None:
                ratio = results.rate_ratio(
                    Cell(work, connections, name), Cell(work, connections, CEILING.name)
                )
                table.add_row(name, *_row(figures, ratio))
        console.print(table)
    usual, worst = results.disturbance()
    if usual > _QUIET:
        console.print(
            f"[yellow]The machine was busy[/]: other programs took {usual:.0%} of the server's "
            f"core, at worst {worst:.0%}. CPU times suffer less from that than rates do."
        )
    for name, reason in results.left_out.items():
        console.print(f"[yellow]left out[/]: {name}: {reason}", highlight=False)


def show_goals(console: Console, goals: Iterable[Goal]) -> None:
    """Print the verdict on each goal."""
    table = _table("The goals", ("goal", "bound", "measured", "by CPU time", "verdict"))
    unmeasured = 0
    for goal in goals:
        if goal.measured is None:
            unmeasured += 1
            continue
        bound = f"{'at most' if goal.at_most else 'at least'} {goal.bound:g}{goal.unit}"
        if goal.beyond:
            bound = f"{'under' if goal.at_most else 'over'} {goal.bound:g}{goal.unit}"
        measured = f"{goal.measured:.2f}{goal.unit}"
        colour = "green" if goal.met else "red"
        by_cpu = "" if goal.by_cpu is None else f"{goal.by_cpu:.2f}x"
        table.add_row(goal.what, bound, measured, by_cpu, f"[{colour}]{goal.verdict}[/]")
    console.print(table)
    if unmeasured:
        console.print(f"{unmeasured} more goals were not measured in this run")


def write(path: Path, results: Results, goals: Sequence[Goal], about: Mapping[str, object]) -> None:
    """Write the results as JSON; `about` says how they were got."""
    document = {
        **about,
        "servers": {
            name: {"description": server.description, "durability": server.durability}
            for name, server in SERVERS.items()
        },
        "left_out": results.left_out,
        "results": [
            {
                **asdict(cell),
                "of_ceiling": results.rate_ratio(
                    cell, Cell(cell.work, cell.connections, CEILING.name)
                ),
                "median": asdict(figures),
                "rounds": [asdict(run) for run in results.runs[cell]],
            }
            for cell in results.runs
            if (figures := results.medians(cell)) is not None
        ],
        "disturbed": dict(zip(("median", "greatest"), results.disturbance(), strict=True)),
        "starts": [
            {"first_answer": first, "imports": imports} for first, imports in results.starts
        ],
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in goals],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _row(figures: Figures, ratio: float | None) -> Sequence[str]:
    if figures.hung:
        return "hung", *["-"] * (len(_COLUMNS) - 2)
    return (
        f"{figures.rate:,.0f}",
        _number(ratio, 2),
        _number(figures.cpu, 0),
        _number(figures.p50, 2),
        _number(figures.p99, 2),
        f"{figures.errors:,}",
        _number(figures.memory, 0),
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table
