"""`python -m tests.torture` runs the long variants, and ends with a table of their figures.

Everything it writes goes into a temporary directory; a count of 0 leaves its part out. It ends
with status 1 when a promise was broken.
"""

import asyncio
import random
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import parts
from .report import Report

Part = Callable[..., Coroutine[Any, Any, None]]


def torture(  # noqa: PLR0913, PLR0917 - one option for each part
    cycles: Annotated[int, typer.Option(min=0, help="Cycles of kill -9 under load.")] = 1_000,
    stops: Annotated[int, typer.Option(min=0, help="SIGTERMs under load.")] = 100,
    creates: Annotated[int, typer.Option(min=0, help="Creates traced for their sync.")] = 1_000,
    vanishing: Annotated[int, typer.Option(min=0, help="Clients that vanish.")] = 10_000,
    starts: Annotated[int, typer.Option(min=0, help="Rounds of eight servers on no file.")] = 50,
    overloads: Annotated[int, typer.Option(min=0, help="Rounds of ten times the connections.")] = 3,
    scan_heroes: Annotated[int, typer.Option(min=0, help="Heroes that are scanned.")] = 1_000_000,
    failovers: Annotated[int, typer.Option(min=0, help="Fail-overs of PostgreSQL.")] = 50,
    soak_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes of mixed work over 256 connections.")
    ] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Where random choices start from.")] = None,
) -> None:
    """Torture `hero-api serve`; it takes some two hours as it is."""
    console = Console()
    seed = random.randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}")
    report = Report(console, seed)
    plans: list[tuple[float, Part]] = [
        (cycles, parts.crashes),
        (stops, parts.stops),
        (creates, parts.syncs),
        (vanishing, parts.vanishing),
        (starts, parts.starts),
        (overloads, parts.overloads),
        (scan_heroes, parts.scans),
        (failovers, parts.failovers),
        (soak_minutes, parts.soaking),
    ]
    for count, run in plans:
        if count:
            with tempfile.TemporaryDirectory(prefix="hero-api-torture-") as directory:
                asyncio.run(run(Path(directory), count, report))
    sys.exit(0 if report.close() else 1)


if __name__ == "__main__":
    typer.run(torture)
