"""One kind of request beside another that never ends: each has its turn after a few batches.

Turns are counted in answers to the others, and not in time.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

BUSY = 16  # clients that ask in a loop
TURNS = 20
LIMIT = 5 * BUSY  # one batch is under way, and one may be full: the rest is for chance
PATIENCE = 60.0  # seconds: far more than anything here takes
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}

Ask = Callable[[], Awaitable[httpx.Response]]


class Crowd:
    """Clients that ask in a loop; `answered` is how often they were answered.

    They stop by themselves when somebody waits for more than `LIMIT` of their answers, so that who
    starves is seen at once, and not when its request has timed out.
    """

    def __init__(self, ask: Ask) -> None:
        self.answered = 0
        self.statuses: set[int] = set()
        self._ask = ask
        self._stopped = False
        self._patience = float("inf")
        self._busy = asyncio.Event()

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Let them ask, from when each was answered some times until the end of the block."""
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            for _ in range(BUSY):
                tasks.create_task(self._loop())
            await self._busy.wait()
            try:
                yield
            finally:
                self._stopped = True

    async def between(self, ask: Ask) -> tuple[httpx.Response, int]:
        """Ask for something else; return its answer, and how many of theirs came before it."""
        before = self.answered
        self._patience = before + LIMIT
        answer = await ask()
        return answer, self.answered - before

    async def _loop(self) -> None:
        while not self._stopped:
            answer = await self._ask()
            self.statuses.add(answer.status_code)
            self.answered += 1
            if self.answered >= 2 * BUSY:
                self._busy.set()
            if self.answered > self._patience:
                self._stopped = True


async def waits(crowd: Crowd, ask: Ask) -> list[int]:
    """Return, for each of some requests, how many answers of the crowd came before its own."""
    async with crowd.asking():
        seen = [await crowd.between(ask) for _ in range(TURNS)]
    assert crowd.statuses == {200}
    assert [answer.status_code for answer, _ in seen] == [200] * TURNS
    return [waited for _, waited in seen]


@pytest.fixture
def creators(client: httpx.AsyncClient) -> Crowd:
    return Crowd(lambda: client.post("/heroes/", json=HERO))


@pytest.fixture
async def heroes(client: httpx.AsyncClient) -> list[str]:
    """Return where there are heroes."""
    answers = [await client.post("/heroes/", json=HERO) for _ in range(TURNS)]
    return [answer.headers["Location"] for answer in answers]


async def test_a_patch_waits_for_a_few_batches_of_creates_at_most(
    client: httpx.AsyncClient, creators: Crowd, heroes: list[str]
) -> None:
    seen = await waits(creators, lambda: client.patch(heroes[0], json={"age": 7}))
    assert max(seen) <= LIMIT


async def test_a_delete_waits_for_a_few_batches_of_creates_at_most(
    client: httpx.AsyncClient, creators: Crowd, heroes: list[str]
) -> None:
    seen = await waits(creators, lambda: client.delete(heroes.pop()))
    assert max(seen) <= LIMIT


@pytest.mark.usefixtures("unhurried_probe")
async def test_a_service_that_is_busy_creating_is_ready(
    client: httpx.AsyncClient, creators: Crowd
) -> None:
    seen = await waits(creators, lambda: client.get("/readyz"))
    assert max(seen) <= LIMIT


async def test_a_create_waits_for_a_few_batches_of_patches_at_most(
    client: httpx.AsyncClient, heroes: list[str]
) -> None:
    crowd = Crowd(lambda: client.patch(heroes[0], json={"age": 7}))
    seen = await waits(crowd, lambda: client.post("/heroes/", json=HERO))
    assert max(seen) <= LIMIT


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a service that reads by one connection; there is a hero of id 1."""
    one = Settings(database_url=settings.database_url, read_connections=1)
    async with running(create_app(one)) as client:
        await client.post("/heroes/", json=HERO)
        yield client


async def test_a_page_waits_for_a_few_batches_of_gets_at_most(narrow: httpx.AsyncClient) -> None:
    seen = await waits(
        Crowd(lambda: narrow.get("/heroes/1")), lambda: narrow.get("/heroes/?limit=1")
    )
    assert max(seen) <= LIMIT


async def test_a_get_waits_for_a_few_batches_of_pages_at_most(narrow: httpx.AsyncClient) -> None:
    seen = await waits(
        Crowd(lambda: narrow.get("/heroes/?limit=1")), lambda: narrow.get("/heroes/1")
    )
    assert max(seen) <= LIMIT
