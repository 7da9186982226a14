"""`python -m tests.torture` runs the long variants, and ends with a table of their figures.

`python -m tests.torture crashes soaking` runs these two alone. Everything it writes goes into a
temporary directory. It ends with status 1 when a promise was broken.
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

from . import measures, parts
from .report import Report

PARTS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    part.__name__: part
    for part in (
        parts.crashes,
        parts.retries,
        parts.stops,
        parts.syncs,
        parts.vanishing,
        parts.starts,
        parts.meddling,
        parts.restores,
        measures.overloads,
        measures.slow,
        measures.scans,
        measures.readers,
        measures.beside,
        measures.beside_postgresql,
        measures.pages,
        parts.culprits,
        parts.failovers,
        parts.retried_failovers,
        measures.soaking,
    )
}


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in PARTS:
            raise typer.BadParameter(f"{name} is none of {', '.join(PARTS)}")
    return names


def torture(  # noqa: PLR0913, PLR0917 - one option for each part
    only: Annotated[
        list[str] | None,
        typer.Argument(callback=_known, help=f"The parts to run, of {', '.join(PARTS)}; or all."),
    ] = None,
    cycles: Annotated[int, typer.Option(min=1, help="Cycles of kill -9 under load.")] = 1_000,
    retries: Annotated[int, typer.Option(min=1, help="Cycles of kill -9 under retries.")] = 200,
    stops: Annotated[int, typer.Option(min=1, help="SIGTERMs under load.")] = 100,
    creates: Annotated[int, typer.Option(min=1, help="Creates traced for their sync.")] = 1_000,
    vanishing: Annotated[int, typer.Option(min=1, help="Clients that vanish.")] = 10_000,
    starts: Annotated[int, typer.Option(min=1, help="Rounds of eight servers on no file.")] = 50,
    meddling: Annotated[
        int, typer.Option(min=1, help="Rounds of another program that uses the file.")
    ] = 1_000,
    restores: Annotated[int, typer.Option(min=1, help="Backups and restores under load.")] = 20,
    overloads: Annotated[int, typer.Option(min=1, help="Rounds of ten times the connections.")] = 3,
    slow: Annotated[int, typer.Option(min=2, help="Slow clients beside 32 others.")] = 200,
    scan_heroes: Annotated[int, typer.Option(min=1, help="Heroes that are scanned.")] = 1_000_000,
    reader_seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a reader stays in a transaction.")
    ] = 30.0,
    beside_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of one kind of request beside another.")
    ] = 12.0,
    culprits: Annotated[
        int, typer.Option(min=1, help="Good clients beside one that the database refuses.")
    ] = 32,
    case: Annotated[str, typer.Option(help="Only the culprits with this in their name.")] = "",
    failovers: Annotated[int, typer.Option(min=1, help="Fail-overs of PostgreSQL.")] = 50,
    soak_minutes: Annotated[
        float, typer.Option(min=0.05, help="Minutes of mixed work over 256 connections.")
    ] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Where random choices start from.")] = None,
) -> None:
    """Torture `hero-api serve`; it takes some two hours as it is."""
    console = Console()
    seed = random.randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}")
    report = Report(console, seed)
    counts: dict[str, float] = {
        "crashes": cycles,
        "retries": retries,
        "stops": stops,
        "syncs": creates,
        "vanishing": vanishing,
        "starts": starts,
        "meddling": meddling,
        "restores": restores,
        "overloads": overloads,
        "slow": slow,
        "scans": scan_heroes,
        "readers": reader_seconds,
        "beside": beside_seconds,
        "beside_postgresql": beside_seconds,
        "pages": beside_seconds,
        "culprits": culprits,
        "failovers": failovers,
        "retried_failovers": failovers,
        "soaking": soak_minutes,
    }
    options = {"culprits": {"case": case}}
    for name, run in PARTS.items():
        if not only or name in only:
            with tempfile.TemporaryDirectory(prefix="hero-api-torture-") as directory:
                asyncio.run(run(Path(directory), counts[name], report, **options.get(name, {})))
    sys.exit(0 if report.close() else 1)


if __name__ == "__main__":
    typer.run(torture)
