"""The rate of the accepted: at the connections that fill a lane, and at ten times as many."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection

WAITING = 64
BOUND = 2 * WAITING  # a batch of as many as may wait is stored while so many wait
SECONDS = 5.0
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


class Overload(NamedTuple):
    """Creates a second at the bound and at ten times the bound; refused ones, and the slowest.

    `hammered` is the rate at ten times the bound when nobody waits for what `Retry-After` says.
    """

    bound: float
    tenfold: float
    hammered: float
    refused: int
    slowest_refusal: float  # seconds
    back_to_normal: float  # seconds


async def compare(directory: Path, rounds: int) -> AsyncIterator[Overload]:
    """Yield what each round shows."""
    with serving(directory, max_waiting=WAITING) as server:
        for _ in range(rounds):
            bound, _ = await _run(server, BOUND)
            tenfold, refusals = await _run(server, 10 * BOUND)
            hammered, more = await _run(server, 10 * BOUND, waits=False)
            ended = time.monotonic()
            async with Connection(server.host, server.port) as client:
                while (await client.request("POST", "/heroes/", HERO)).status != 200:
                    pass
            normal = time.monotonic() - ended
            refusals += more
            slowest = max(refusals, default=0)
            yield Overload(bound, tenfold, hammered, len(refusals), slowest, normal)


async def _run(server: Server, clients: int, *, waits: bool = True) -> tuple[float, list[float]]:
    """Return the rate of creates, and how long each refusal took."""
    refusals: list[float] = []

    async def create(client: Connection, end: float) -> int:
        creates = 0
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await client.request("POST", "/heroes/", HERO)
            assert answer.status in {200, 503}
            if answer.status == 200:
                creates += 1
            else:
                refusals.append(time.monotonic() - began)
                if waits:
                    await asyncio.sleep(float(answer.headers["retry-after"]))
        return creates

    async with AsyncExitStack() as stack:
        opening = (Connection(server.host, server.port) for _ in range(clients))
        opened = [await stack.enter_async_context(connection) for connection in opening]
        end = time.monotonic() + SECONDS
        creates = await asyncio.gather(*(create(client, end) for client in opened))
    return sum(creates) / SECONDS, refusals
