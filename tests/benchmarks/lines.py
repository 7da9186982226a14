"""`python -m tests.benchmarks.lines`: JSON Lines in and out, beside `executemany` and COPY."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Annotated

import typer

from hero_api.settings import PREFIX, Settings
from tests.clusters import connection_to, running_cluster, stored
from tests.servers import Server, serving

_BULK = 10_000  # heroes of a request
_LINES = {"Content-Type": "application/jsonl", "Accept": "application/jsonl"}
_COLUMNS = "hero (id, name, age, secret_name)"


def measure(
    heroes: Annotated[int, typer.Option(min=_BULK, help="How many.")] = 1_000_000,
) -> None:
    """Move heroes over HTTP, by the commands, and by what each engine has of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="hero-lines-") as name,
        running_cluster({"fsync": "on"}) as cluster,
    ):
        numbers = iter(range(100))
        for engine, new in {
            "SQLite": lambda: f"sqlite:///{name}/heroes_{next(numbers)}.db",
            "PostgreSQL": cluster.new_schema,
        }.items():
            directory = Path(name, engine)
            directory.mkdir()
            _measure(engine, directory, new, heroes)


def _measure(engine: str, directory: Path, new: Callable[[], str], heroes: int) -> None:
    @contextmanager
    def timed(what: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        typer.echo(f"{engine}, {what}: {seconds:.1f} s, {heroes / seconds:,.0f} a second")

    url, file = new(), directory / "heroes.jsonl"
    with serving(directory, database_url=url) as server:
        before = server.memory()
        with _creating(server) as latencies, timed("POST /heroes/"):
            _post(server, heroes)
        *_, p99 = quantiles(latencies, n=100)
        typer.echo(f"{engine}, a create beside it: p99 {p99:.3f} s, {max(latencies):.3f} at most")
        with timed("GET /heroes/"):
            _get(server)
        typer.echo(f"{engine}, memory: {before:.0f} MB, then {server.memory():.0f}")
    with timed("export"):
        _command(url, "export", file)
    with timed("import"):
        _command(new(), "import", file)
    rows, bare = stored(Settings(database_url=url)), Settings(database_url=new())
    file.write_bytes(b"")
    _command(bare.database_url, "import", file)  # makes the table
    placeholder = "%s" if bare.is_postgresql else "?"
    values = ", ".join([placeholder] * 4)
    with connection_to(bare) as connection, closing(connection.cursor()) as cursor:
        with timed("executemany"):
            cursor.execute("BEGIN")
            cursor.executemany(f"INSERT INTO {_COLUMNS} VALUES ({values})", rows)
            cursor.execute("COMMIT")
        if bare.is_postgresql:
            with timed("COPY TO"), cursor.copy(f"COPY {_COLUMNS} TO STDOUT") as copy:
                copied = b"".join(map(bytes, copy))
            cursor.execute("TRUNCATE hero")
            with timed("COPY FROM"), cursor.copy(f"COPY {_COLUMNS} FROM STDIN") as copy:
                copy.write(copied)


def _post(server: Server, heroes: int) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
        for first in range(0, heroes, _BULK):
            lines = (
                json.dumps({"name": f"Hero {n}", "age": n % 100, "secret_name": f"Secret name {n}"})
                for n in range(first, first + _BULK)
            )
            connection.request("POST", "/heroes/", "\n".join(lines), _LINES)
            answer = connection.getresponse()
            assert answer.read().count(b"\n") == _BULK


def _get(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
        connection.request("GET", "/heroes/", headers=_LINES)
        answer = connection.getresponse()
        while answer.read(65_536):
            pass


@contextmanager
def _creating(server: Server) -> Iterator[list[float]]:
    """Create one hero after the other meanwhile; the list has how long each took."""
    latencies: list[float] = []
    ended = threading.Event()

    def create() -> None:
        body = json.dumps({"name": "Deadpond", "secret_name": "Dive Wilson"})
        with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
            while not ended.is_set():
                begin = time.perf_counter()
                connection.request("POST", "/heroes/", body, {"Content-Type": "application/json"})
                assert connection.getresponse().read()
                latencies.append(time.perf_counter() - begin)

    thread = threading.Thread(target=create)
    thread.start()
    try:
        yield latencies
    finally:
        ended.set()
        thread.join()


def _command(url: str, *arguments: object) -> None:
    command = [sys.executable, "-m", "hero_api", *map(str, arguments)]
    environment = os.environ | {f"{PREFIX}DATABASE_URL": url}
    subprocess.run(command, check=True, capture_output=True, env=environment)


if __name__ == "__main__":
    typer.run(measure)
