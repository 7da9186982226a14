"""`python -m tests.benchmarks.growth`: what requests cost as the table grows, on SQLite."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated

import httpx
import typer

from hero_api.settings import PREFIX
from tests.servers import serving

_REQUESTS: Mapping[str, Callable[[int], str]] = {
    "a hero": lambda heroes: f"/heroes/{random.randint(1, heroes)}",
    "a page by after": lambda heroes: f"/heroes/?after={random.randint(0, heroes - 100)}",
    "a name": lambda _: "/heroes/?name=Nobody",
    "an age": lambda heroes: f"/heroes/?age=30&after={heroes // 2}",
    "an age or more": lambda heroes: f"/heroes/?min_age=40&after={heroes // 2}",
    "a range of all": lambda heroes: f"/heroes/?min_age=0&max_age=200&after={heroes // 2}",
    "a range of nobody": lambda _: "/heroes/?min_age=150&max_age=200",
    "the last page by offset": lambda heroes: f"/heroes/?offset={heroes - 100}",
    "a count of an age": lambda _: "/heroes/?age=30&count=true&limit=1",
    "a count of all": lambda _: "/heroes/?count=true&limit=1",
}
_ASKED = 50  # times
_LONG = 0.2  # seconds: such a request is asked a few times only


def measure(
    sizes: Annotated[str, typer.Option(help="Numbers of heroes.")] = "10000,1000000,10000000",
) -> None:
    """Ask for each, of all tables in turn; the median time, beside that of the first."""
    numbers = [int(size) for size in sizes.split(",")]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hero-growth-")))
        clients = [stack.enter_context(_client(directory / str(size), size)) for size in numbers]
        typer.echo(f"{'heroes':26}" + "".join(f"{size:>22,}" for size in numbers))
        for what, path in _REQUESTS.items():
            took = _time(path, dict(zip(numbers, clients, strict=True)))
            times = (f"{each * 1_000:12.2f} ms {each / took[0]:5.2f} x" for each in took)
            typer.echo(f"{what:26}{''.join(times)}")


@contextmanager
def _client(directory: Path, heroes: int) -> Iterator[httpx.Client]:
    """Serve a table of so many heroes."""
    directory.mkdir()
    url = f"sqlite:///{directory}/heroes.db"
    command = [sys.executable, "-m", "hero_api", "seed", str(heroes)]
    environment = os.environ | {f"{PREFIX}DATABASE_URL": url}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    with (
        serving(directory, database_url=url) as server,
        httpx.Client(base_url=f"http://{server.host}:{server.port}") as client,
    ):
        yield client


def _time(path: Callable[[int], str], clients: Mapping[int, httpx.Client]) -> list[float]:
    """Return the seconds that a request of each table takes."""
    rounds: list[list[float]] = []
    while len(rounds) < _ASKED and (len(rounds) < 3 or max(rounds[-1]) < _LONG):
        seconds = []
        for heroes, client in clients.items():
            begun = time.perf_counter()
            client.get(path(heroes)).raise_for_status()
            seconds.append(time.perf_counter() - begun)
        rounds.append(seconds)
    return [*map(median, zip(*rounds, strict=True))]


if __name__ == "__main__":
    typer.run(measure)
