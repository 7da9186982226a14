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
TIMES = 3  # the p99 of the creates, by whatever comes beside them
READERS = 32  # clients that get, and as many that list
KEPT = 0.25  # of their rate, by pages beside gets: where all is fair, the two share a core
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


class Rates(NamedTuple):
    """Answers a second of pages and of gets: each alone, and beside the other."""

    pages_alone: float
    gets_alone: float
    pages: float
    gets: float


async def read(directory: Path, seconds: float, seed: int) -> Rates:
    """List and get heroes over one connection to the database, apart and at once."""
    chance = random.Random(seed)
    with serving(directory, read_connections=1) as server:
        async with Connection(server.host, server.port) as client:
            for _ in range(2 * _PAGE):
                await client.request("POST", "/heroes/", _HERO)

        def page() -> str:
            return f"/heroes/?offset={chance.randrange(_PAGE)}&limit={_PAGE}"

        def get() -> str:
            return f"/heroes/{chance.randrange(2 * _PAGE) + 1}"

        [pages_alone] = await _rates(server, seconds, page)
        [gets_alone] = await _rates(server, seconds, get)
        pages, gets = await _rates(server, seconds, page, get)
    return Rates(pages_alone, gets_alone, pages, gets)


async def _rates(server: Server, seconds: float, *kinds: Callable[[], str]) -> list[float]:
    """Return the answers a second of each kind of path, asked for by as many clients each."""
    counts = [0] * len(kinds)
    end = time.monotonic() + seconds

    async def ask(kind: int) -> None:
        async with Connection(server.host, server.port) as connection:
            while time.monotonic() < end:
                answer = await connection.request("GET", kinds[kind]())
                # What is answered after the end was waiting: it is no part of the rate.
                counts[kind] += answer.status == 200 and time.monotonic() < end

    await asyncio.gather(*(ask(kind) for kind in range(len(kinds)) for _ in range(READERS)))
    return [count / seconds for count in counts]
