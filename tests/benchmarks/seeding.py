"""`python -m tests.benchmarks.seeding`: `hero-api seed` beside a bare `executemany`."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from hero_api.settings import PREFIX, Settings
from tests.clusters import connection_to, running_cluster, stored


def measure(
    heroes: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Over which medians go.")] = 3,
) -> None:
    """Time the command, then the same rows by `executemany` into the same table, emptied.

    The command's time includes that of Python's start; `executemany` has its rows in a list.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hero-seeding-") as name,
        running_cluster({"fsync": "on"}) as cluster,
    ):
        for engine, new in {
            "SQLite": lambda n: f"sqlite:///{Path(name)}/heroes_{n}.db",
            "PostgreSQL": lambda _: cluster.new_schema(),
        }.items():
            ratios = [_pair(engine, new, heroes, number) for number in range(rounds)]
            typer.echo(f"{engine}, median: {median(ratios):.2f} of the speed of executemany")


def _pair(engine: str, new: Callable[[int], str], heroes: int, number: int) -> float:
    settings, bare = (Settings(database_url=new(2 * number + each)) for each in range(2))
    _seed(bare, 0)  # makes the table
    begin = time.perf_counter()
    _seed(settings, heroes)
    seeded = time.perf_counter() - begin
    rows = stored(settings)
    begin = time.perf_counter()
    _execute_many(bare, rows)
    executed = time.perf_counter() - begin
    typer.echo(f"{engine}: seed {seeded:.1f} s, executemany {executed:.1f} s")
    return executed / seeded


def _seed(settings: Settings, heroes: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "hero_api", "seed", str(heroes)],
        check=True,
        capture_output=True,
        env=os.environ | {f"{PREFIX}DATABASE_URL": settings.database_url},
    )


def _execute_many(settings: Settings, rows: list[Any]) -> None:
    values = "%s, %s, %s, %s" if settings.is_postgresql else "?, ?, ?, ?"
    with connection_to(settings) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.executemany(f"INSERT INTO hero (id, name, age, secret_name) VALUES ({values})", rows)
        cursor.execute("COMMIT")


if __name__ == "__main__":
    typer.run(measure)
