"""The rate of the accepted: at the connections that fill a queue, and at ten times as many."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection

Request = tuple[str, str, object]
WAITING = 64
BOUND = 2 * WAITING  # a batch of as many as may wait is served while so many wait
SECONDS = 5.0
RECOVERY = 2.0  # seconds from the end of an overload until the rate is what it was
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
REQUESTS: dict[str, Request] = {
    "creates": ("POST", "/heroes/", HERO),
    "gets": ("GET", "/heroes/1", None),
}


class Overload(NamedTuple):
    """Answers a second at the bound and at ten times the bound; the refused, and the slowest.

    `hammered` is the rate at ten times the bound when nobody waits for what `Retry-After` says,
    `recovered` the one at the bound when that is over for as long as it may take.
    """

    bound: float
    tenfold: float
    hammered: float
    recovered: float
    refused: int
    slowest: float  # seconds
    slowest_hammered: float  # seconds, in some of which the service does not listen


async def compare(directory: Path, rounds: int) -> AsyncIterator[tuple[str, Overload]]:
    """Yield what each round shows of each kind of request."""
    with serving(directory, max_waiting=WAITING) as server:
        async with Connection(server.host, server.port) as client:
            assert (await client.request("POST", "/heroes/", HERO)).status == 200
        for _ in range(rounds):
            for kind, request in REQUESTS.items():
                yield kind, await _overload(server, request)


async def _overload(server: Server, request: Request) -> Overload:
    bound, _ = await _run(server, request, BOUND)
    tenfold, refusals = await _run(server, request, 10 * BOUND)
    hammered, more = await _run(server, request, 10 * BOUND, waits=False)
    await asyncio.sleep(RECOVERY)
    recovered, _ = await _run(server, request, BOUND)
    refused = len(refusals) + len(more)
    slowest, slowest_hammered = max(refusals, default=0), max(more, default=0)
    return Overload(bound, tenfold, hammered, recovered, refused, slowest, slowest_hammered)


async def _run(
    server: Server, request: Request, clients: int, *, waits: bool = True
) -> tuple[float, list[float]]:
    """Return the rate of what is served, and how long each refusal took."""
    refusals: list[float] = []

    async def ask(client: Connection, end: float) -> int:
        served = 0
        while time.monotonic() < end:
            began = time.monotonic()
            answer = await client.request(*request)
            assert answer.status in {200, 503}
            if answer.status == 200:
                served += 1
            else:
                refusals.append(time.monotonic() - began)
                if waits:
                    await asyncio.sleep(float(answer.headers["retry-after"]))
        return served

    async with AsyncExitStack() as stack:
        opening = (Connection(server.host, server.port) for _ in range(clients))
        opened = [await stack.enter_async_context(connection) for connection in opening]
        end = time.monotonic() + SECONDS
        served = await asyncio.gather(*(ask(client, end) for client in opened))
    return sum(served) / SECONDS, refusals
