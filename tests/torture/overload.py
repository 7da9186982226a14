"""More connections than expected: what is answered a second, and what is refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Connection

Request = tuple[str, str, object]
FEW = 128
MANY = 10 * FEW
PATIENCE = 0.3  # seconds, of clients that hang up and come again
SECONDS = 5.0
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
REQUESTS: dict[str, Request] = {
    "creates": ("POST", "/heroes/", HERO),
    "gets": ("GET", "/heroes/1", None),
}


class Overload(NamedTuple):
    """Answers a second of a few clients, of ten times as many, and of as many impatient ones."""

    few: float
    many: float
    impatient: float
    refused: int


async def compare(directory: Path, rounds: int) -> AsyncIterator[tuple[str, Overload]]:
    """Yield what each round shows of each kind of request."""
    with serving(directory) as server:
        async with Connection(server.host, server.port) as client:
            assert (await client.request("POST", "/heroes/", HERO)).status == 200
        for _ in range(rounds):
            for kind, request in REQUESTS.items():
                few, refused = await _run(server, request, FEW, _ask)
                many, more = await _run(server, request, MANY, _ask)
                impatient, yet_more = await _run(server, request, MANY, _ask_impatiently)
                yield kind, Overload(few, many, impatient, refused + more + yet_more)


_Ask = Callable[[Server, Request, float], Awaitable[list[int]]]


async def _run(server: Server, request: Request, clients: int, ask: _Ask) -> tuple[float, int]:
    """Return the rate of what is served, and how many were refused."""
    end = time.monotonic() + SECONDS
    answers = await asyncio.gather(*(ask(server, request, end) for _ in range(clients)))
    statuses = [status for each in answers for status in each]
    served = statuses.count(200)
    return served / SECONDS, len(statuses) - served


async def _ask(server: Server, request: Request, end: float) -> list[int]:
    statuses = []
    async with Connection(server.host, server.port) as client:
        while time.monotonic() < end:
            statuses.append((await client.request(*request)).status)
    return statuses


async def _ask_impatiently(server: Server, request: Request, end: float) -> list[int]:
    statuses = []
    while time.monotonic() < end:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Connection(server.host, server.port))
            try:
                while time.monotonic() < end:
                    async with asyncio.timeout(PATIENCE):
                        statuses.append((await client.request(*request)).status)
            except TimeoutError:
                continue
    return statuses
