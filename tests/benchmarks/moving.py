"""`python -m tests.benchmarks.moving`: `hero-api copy` beside PostgreSQL's own COPY."""

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from tests.clusters import Cluster, running_cluster

_COLUMNS = "hero (id, name, age, secret_name)"
_TABLE = (
    "CREATE TABLE hero (id bigserial PRIMARY KEY, name text NOT NULL, age integer, "
    "secret_name text NOT NULL); CREATE INDEX ON hero (name); CREATE INDEX ON hero (age)"
)


def measure(
    heroes: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Over which medians go.")] = 3,
) -> None:
    """Time `psql -c '\\copy ...'` into an empty table, and the copies there and back."""
    times: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="hero-moving-") as name,
        running_cluster({"fsync": "on"}) as cluster,
    ):
        directory = Path(name)
        _write(directory / "heroes.csv", heroes)
        _import(cluster, directory)
        for number in range(rounds):
            for what, command in _commands(cluster, directory, number):
                begin = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                times.setdefault(what, []).append(time.perf_counter() - begin)
                typer.echo(f"{what}: {times[what][-1]:.1f} s")
    for what, seconds in times.items():
        typer.echo(f"{what}, median: {median(seconds):.1f} s")


def _write(path: Path, heroes: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            (n, f"Hero {n}", n % 100, f"Secret name {n}") for n in range(1, heroes + 1)
        )


def _commands(
    cluster: Cluster, directory: Path, number: int
) -> Iterator[tuple[str, list[str | Path]]]:
    file, back = (f"sqlite:///{directory}/{name}.db" for name in ("heroes", f"back_{number}"))
    url = _new_database(cluster, f"copy_{number}")
    yield "COPY", _psql(url, directory, _TABLE)
    url = _new_database(cluster, f"hero_{number}")
    copy = [sys.executable, "-m", "hero_api", "copy"]
    yield "SQLite to PostgreSQL", [*copy, file, url]
    yield "PostgreSQL to SQLite", [*copy, url, back]


def _import(cluster: Cluster, directory: Path) -> None:
    """Make the file that the copies start from."""
    url = _new_database(cluster, "made")
    subprocess.run(_psql(url, directory, _TABLE), check=True, capture_output=True)
    copy = [sys.executable, "-m", "hero_api", "copy", url, f"sqlite:///{directory}/heroes.db"]
    subprocess.run(copy, check=True, capture_output=True)


def _psql(url: str, directory: Path, table: str) -> list[str | Path]:
    load = f"\\copy {_COLUMNS} from '{directory}/heroes.csv' csv"
    return ["psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "-c", table, "-c", load, url]


def _new_database(cluster: Cluster, name: str) -> str:
    with closing(cluster.connect()) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute("CHECKPOINT")
    return cluster.url(name)


if __name__ == "__main__":
    typer.run(measure)
