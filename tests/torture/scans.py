"""Scans of a large table, beside a load of gets."""

import asyncio
import random
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection

GETTERS, SCANNERS = 32, 4
SECONDS = 5.0
QUERIES = ["min_age=1000", "count=true", "offset={deep}", "min_age=20&max_age=30&count=true"]
_ROWS = """
    WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1)
    INSERT INTO hero (id, name, age, secret_name)
    SELECT n, 'hero ' || n, n % 100, 'secret ' || n FROM number WHERE n <= ?1
"""


class Rates(NamedTuple):
    """Gets a second, alone and beside scans, and how many scans there were."""

    alone: float
    beside: float
    scans: int


async def compare(directory: Path, heroes: int, rounds: int, seed: int) -> AsyncIterator[Rates]:
    """Yield the rates of each round: gets alone, then gets beside scans."""
    with serving(directory) as server:
        server.kill()
    fill(server.file, heroes)
    chance = random.Random(seed)
    with serving(directory) as server:
        for _ in range(rounds):
            alone, _ = await _run(server, chance, heroes, scanners=0)
            beside, scans = await _run(server, chance, heroes, scanners=SCANNERS)
            yield Rates(alone, beside, scans)


def fill(file: Path, heroes: int) -> None:
    """Write heroes into a file that nobody has open."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(_ROWS, (heroes,))


def share(rates: list[Rates]) -> float:
    """Return the share of their rate that gets keep beside scans: the median of the rounds."""
    return statistics.median(rate.beside / rate.alone for rate in rates)


async def _run(
    server: Server, chance: random.Random, heroes: int, *, scanners: int
) -> tuple[float, int]:
    end = time.monotonic() + SECONDS
    paths = [f"/heroes/?{query.format(deep=heroes * 9 // 10)}" for query in QUERIES]

    async def get() -> int:
        gets = 0
        async with Connection(server.host, server.port) as connection:
            while time.monotonic() < end:
                path = f"/heroes/{chance.randrange(heroes) + 1}"
                assert (await connection.request("GET", path)).status == 200
                gets += 1
        return gets

    async def scan(first: int) -> int:
        scans = 0
        async with Connection(server.host, server.port) as connection:
            while time.monotonic() < end:
                path = paths[(first + scans) % len(paths)]
                assert (await connection.request("GET", path)).status == 200
                scans += 1
        return scans

    scanning = [asyncio.create_task(scan(number)) for number in range(scanners)]
    gets = await asyncio.gather(*(get() for _ in range(GETTERS)))
    return sum(gets) / SECONDS, sum(await asyncio.gather(*scanning))
