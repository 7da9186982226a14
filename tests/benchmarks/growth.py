"""`python -m tests.benchmarks.growth`: what requests cost as the table grows, on SQLite."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
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
    """Ask for each, one after the other; the median time, beside that of the smallest table."""
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hero-growth-") as directory:
        for size in map(int, sizes.split(",")):
            url = f"sqlite:///{directory}/{size}.db"
            command = [sys.executable, "-m", "hero_api", "seed", str(size)]
            environment = os.environ | {f"{PREFIX}DATABASE_URL": url}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            typer.echo(f"{size:,} heroes")
            with (
                serving(Path(directory), database_url=url) as server,
                httpx.Client(base_url=f"http://{server.host}:{server.port}") as client,
            ):
                for what, path in _REQUESTS.items():
                    took = _time(client, path, size)
                    times = took / first.setdefault(what, took)
                    typer.echo(f"  {what:26}{took * 1_000:10.2f} ms {times:10.2f} x")


def _time(client: httpx.Client, path: Callable[[int], str], heroes: int) -> float:
    seconds: list[float] = []
    while len(seconds) < _ASKED and (len(seconds) < 3 or seconds[-1] < _LONG):
        begun = time.perf_counter()
        client.get(path(heroes)).raise_for_status()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


if __name__ == "__main__":
    typer.run(measure)
