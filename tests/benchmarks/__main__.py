"""The command `python -m tests.benchmarks`."""

import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import deep, machine, plot, postgresql, report, start
from .goals import goals
from .process import ServerError
from .race import Plan, Race
from .results import Results
from .servers import ENGINES, SERVERS
from .work import WORKS

_EXTRAS = {"deep": deep, "start": start}
_WORKS = (*WORKS, *_EXTRAS)
_TITLES = {name: work.description for name, work in WORKS.items()}
_HERE = Path(__file__).parent
_WIDTH = 120


def benchmark(  # noqa: PLR0913, PLR0917 - the options of the command
    seconds: Annotated[int, typer.Option(min=1, max=60, help="Of each run.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Over which medians go.")] = 3,
    engine: Annotated[
        Literal["sqlite", "postgresql"], typer.Option(help="That has the heroes.")
    ] = "sqlite",
    servers: Annotated[
        str, typer.Option(help="Which, with commas between.", show_default="all of the engine")
    ] = "",
    work: Annotated[
        str, typer.Option(help="Which, with commas between.", show_default="all of the engine")
    ] = "",
    connections: Annotated[str, typer.Option(help="How many, with commas.")] = "1,64,1000,5000",
    output_dir: Annotated[
        Path,
        typer.Option(help="For the JSON and the plot.", show_default="tests/benchmarks/results"),
    ] = _HERE / "results",
) -> None:
    """Race the hero API against other servers, each in turn on one core.

    PostgreSQL shares the other core with the load.
    """
    # Where there is no terminal to measure, such as in a pipe, the tables still need room.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    results = Results()
    # The extras are SQLite's.
    chosen = _chosen(work, _WORKS if engine == "sqlite" else tuple(WORKS), "work")
    numbers = _numbers(connections)
    known = [server.name for server in ENGINES[engine]]
    names = [name for name in _chosen(servers, known, "server") if _present(name, results)]
    cores = machine.prepare()
    on_postgresql = any(SERVERS[name].on_postgresql for name in names)
    with (
        tempfile.TemporaryDirectory(prefix="hero-benchmark-") as directory,
        postgresql.started() if on_postgresql else nullcontext() as version,
    ):
        plan = Plan(
            servers=[SERVERS[name] for name in names],
            works=[WORKS[name] for name in chosen if name in WORKS],
            connections=numbers,
            rounds=rounds,
            seconds=seconds,
            cores=cores,
            directory=Path(directory),
        )
        _measure(plan, [name for name in chosen if name in _EXTRAS], results, console)
        about = _about(plan, version)
    verdict = goals(results)
    report.show(console, results, {**_TITLES, **deep.DESCRIPTIONS})
    report.show_goals(console, verdict)
    _save(output_dir, results, about, console)


def _measure(plan: Plan, extras: Sequence[str], results: Results, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    total = plan.steps + sum(_EXTRAS[name].steps(plan) for name in extras)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("making 10,000 heroes for each server", total=total)

        def advance(what: str) -> None:
            progress.update(task, description=what, advance=1)

        Race(plan, results, advance).run()
        for name in extras:
            try:
                _EXTRAS[name].measure(plan, results, advance)
            except ServerError as error:
                results.left_out[name] = str(error)
        progress.update(task, description="done", completed=total)


def _about(plan: Plan, postgresql_version: str | None) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m tests.benchmarks", *sys.argv[1:]]),
        "machine": machine.description(plan.directory),
        "versions": machine.versions()
        | ({"postgresql": postgresql_version} if postgresql_version else {}),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
    }


def _save(directory: Path, results: Results, about: dict[str, Any], console: Console) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    report.write(directory / "results.json", results, goals(results), about)
    versions = about["versions"]
    caption = (
        f"64 connections, one core for the server; median of {about['rounds']} x "
        f"{about['seconds']} s; {about['date'][:10]}; Python {versions['python']}, "
        f"FastAPI {versions['fastapi']}"
    )
    drawn = plot.draw(directory / "results.svg", results, _TITLES, caption)
    console.print(f"Written: results.json{' and results.svg' if drawn else ''} in {directory}")


def _chosen(text: str, known: Sequence[str], what: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] or known
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"no such {what}: {', '.join(unknown)}; of {', '.join(known)}")
    return names


def _numbers(text: str) -> Sequence[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        message = "connections are whole numbers with commas between"
        raise typer.BadParameter(message) from None
    if not all(1 <= number <= machine.MAX_CONNECTIONS for number in numbers):
        message = f"from 1 to {machine.MAX_CONNECTIONS:,} connections"
        raise typer.BadParameter(message)
    return numbers


def _present(name: str, results: Results) -> bool:
    reason = SERVERS[name].unavailable()
    if reason is not None:
        results.left_out[name] = reason
    return reason is None


def main() -> None:
    """Run the command; what stops it is one line on standard error and status 1."""
    # As for Ctrl-C, so that the servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        typer.run(benchmark)
    except machine.MachineError as error:
        sys.exit(f"benchmarks: {error}")


if __name__ == "__main__":
    main()
