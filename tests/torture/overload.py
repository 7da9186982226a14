"""The rate of the accepted: at the connections that fill a lane, and at ten times as many."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection

WAITING = 64
BOUND = 2 * WAITING  # a batch of as many as may wait is stored while so many wait
SECONDS = 5.0
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


class Overload(NamedTuple):
    """Creates a second, at the bound and at ten times the bound; refused ones, and the slowest."""

    bound: float
    tenfold: float
    refused: int
    slowest_refusal: float  # seconds
    back_to_normal: float  # seconds


async def compare(directory: Path, rounds: int) -> AsyncIterator[Overload]:
    """Yield what each round shows. Clients that are refused come back when `Retry-After` says."""
    with serving(directory, max_waiting=WAITING) as server:
        for _ in range(rounds):
            bound, _ = await _run(server, BOUND)
            tenfold, refusals = await _run(server, 10 * BOUND)
            ended = time.monotonic()
            async with Connection(server.host, server.port) as client:
                while (await client.request("POST", "/heroes/", HERO)).status != 200:
                    pass
            normal = time.monotonic() - ended
            yield Overload(bound, tenfold, len(refusals), max(refusals, default=0), normal)


async def _run(server: Server, clients: int) -> tuple[float, list[float]]:
    """Return the rate of creates, and how long each refusal took."""
    end = time.monotonic() + SECONDS
    refusals: list[float] = []

    async def create() -> int:
        creates = 0
        async with Connection(server.host, server.port) as client:
            while time.monotonic() < end:
                began = time.monotonic()
                answer = await client.request("POST", "/heroes/", HERO)
                assert answer.status in {200, 503}
                if answer.status == 200:
                    creates += 1
                else:
                    refusals.append(time.monotonic() - began)
                    await asyncio.sleep(float(answer.headers["retry-after"]))
        return creates

    return sum(await asyncio.gather(*(create() for _ in range(clients)))) / SECONDS, refusals
