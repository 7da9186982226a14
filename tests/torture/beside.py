"""One kind of request beside another: how long each waits, and what rate each keeps."""

import asyncio
import math
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.servers import Server, serving

from .wire import Answer, Connection

CREATORS = (4, 64, 1_000)
TIMES = 3  # the p99 of the others, by whatever comes beside them
READERS = ((32, 32), (8, 64))  # clients that list, and clients that get
_SEEDED = 200
_PAGE = 100
_HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@dataclass
class Waits:
    """How long the requests of one kind took, in seconds, and how many were not 200."""

    seconds: list[float] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)

    @property
    def worst(self) -> float:
        """The longest."""
        return max(self.seconds)

    @property
    def p99(self) -> float:
        """What 99 of 100 took at most; of fewer than that, the longest."""
        return sorted(self.seconds)[math.ceil(0.99 * len(self.seconds)) - 1]

    async def time(self, asked: Awaitable[Answer]) -> Answer:
        """Wait for an answer, and note how long it took."""
        began = time.monotonic()
        answer = await asked
        self.seconds.append(time.monotonic() - began)
        if answer.status != 200:
            self.refused[answer.status] += 1
        return answer


class Beside(NamedTuple):
    """The waits of creates, and of what was asked beside so many clients that create."""

    creators: int
    creates: Waits
    others: dict[str, Waits]

    def keeps(self, kind: str) -> bool:
        """Say whether all of a kind are 200, and wait at most a few times as long as creates."""
        waits = self.others[kind]
        return not waits.refused and waits.p99 <= TIMES * self.creates.p99


async def compare(
    directory: Path, url: str | None, seconds: float, seed: int
) -> AsyncIterator[Beside]:
    """Yield what each number of creators shows."""
    database = {} if url is None else {"database_url": url}
    with serving(directory, **database) as server:
        for creators in CREATORS:
            yield await _Writers(server, creators, random.Random(seed)).run(seconds)


class _Writers:
    """Clients that create in a loop, and beside them one that patches, one that deletes and one
    that asks whether the service is ready.
    """

    def __init__(self, server: Server, creators: int, chance: random.Random) -> None:
        self._server = server
        self._creators = creators
        self._chance = chance
        self._creates = Waits()
        self._kept: list[int] = []
        self._doomed: deque[int] = deque()
        self._done = False

    async def run(self, seconds: float) -> Beside:
        """Let them ask for so long, and the creators until the last of the others is answered."""
        others = {"PATCH": self._patch, "DELETE": self._delete, "/readyz": self._probe}
        waits = {kind: Waits() for kind in others}
        async with AsyncExitStack() as stack:

            async def connected() -> Connection:
                connection = Connection(self._server.host, self._server.port)
                return await stack.enter_async_context(connection)

            first = await connected()
            self._kept = [await self._created(first) for _ in range(_SEEDED)]
            creators = [await connected() for _ in range(self._creators)]
            beside = [(ask, waits[kind], await connected()) for kind, ask in others.items()]
            creating = [asyncio.create_task(self._create(client)) for client in creators]
            end = time.monotonic() + seconds
            await asyncio.gather(*(_repeat(*one, end) for one in beside))
            self._done = True
            await asyncio.gather(*creating)
        return Beside(self._creators, self._creates, waits)

    async def _create(self, connection: Connection) -> None:
        while not self._done:
            answer = await self._creates.time(connection.request("POST", "/heroes/", _HERO))
            if answer.status == 200:
                self._doomed.append(int(answer.json()["id"]))

    async def _created(self, connection: Connection) -> int:
        return int((await connection.request("POST", "/heroes/", _HERO)).json()["id"])

    async def _patch(self, waits: Waits, connection: Connection) -> None:
        path = f"/heroes/{self._chance.choice(self._kept)}"
        await waits.time(connection.request("PATCH", path, {"age": self._chance.randrange(100)}))

    async def _delete(self, waits: Waits, connection: Connection) -> None:
        # Those of the creators, who make more of them; or one of its own.
        doomed = self._doomed.popleft() if self._doomed else await self._created(connection)
        await waits.time(connection.request("DELETE", f"/heroes/{doomed}"))

    async def _probe(self, waits: Waits, connection: Connection) -> None:
        await waits.time(connection.request("GET", "/readyz"))


async def _repeat(
    ask: Callable[[Waits, Connection], Awaitable[None]],
    waits: Waits,
    connection: Connection,
    end: float,
) -> None:
    while time.monotonic() < end:
        await ask(waits, connection)


class Reads(NamedTuple):
    """What clients that list and clients that get saw: those that list alone, and both at once."""

    pagers: int
    getters: int
    alone: Waits
    pages: Waits
    gets: Waits

    @property
    def kept(self) -> float:
        """The share of their rate that pages keep beside gets."""
        return len(self.pages.seconds) / len(self.alone.seconds)

    @property
    def is_fair(self) -> bool:
        """Whether none waits much longer than the others, and all are served."""
        shorter, longer = sorted(waits.p99 for waits in (self.pages, self.gets))
        return longer <= TIMES * shorter and not (self.pages.refused or self.gets.refused)


async def read(directory: Path, seconds: float, seed: int) -> AsyncIterator[Reads]:
    """List and get heroes over one connection to the database, by more and by fewer clients."""
    chance = random.Random(seed)
    with serving(directory, read_connections=1) as server:
        async with Connection(server.host, server.port) as client:
            for _ in range(2 * _PAGE):
                await client.request("POST", "/heroes/", _HERO)

        def page() -> str:
            return f"/heroes/?offset={chance.randrange(_PAGE)}&limit={_PAGE}"

        def get() -> str:
            return f"/heroes/{chance.randrange(2 * _PAGE) + 1}"

        for pagers, getters in READERS:
            [alone] = await _read(server, seconds, (pagers, page))
            pages, gets = await _read(server, seconds, (pagers, page), (getters, get))
            yield Reads(pagers, getters, alone, pages, gets)


async def _read(
    server: Server, seconds: float, *kinds: tuple[int, Callable[[], str]]
) -> list[Waits]:
    """Ask for each kind of path by so many clients, at once."""
    end = time.monotonic() + seconds

    async def ask(waits: Waits, path: Callable[[], str]) -> None:
        async with Connection(server.host, server.port) as connection:
            while time.monotonic() < end:
                await waits.time(connection.request("GET", path()))

    seen = [Waits() for _ in kinds]
    async with asyncio.TaskGroup() as tasks:
        for waits, (clients, path) in zip(seen, kinds, strict=True):
            for _ in range(clients):
                tasks.create_task(ask(waits, path))
    return seen
