"""Another process holds the write lock."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager

import httpx
import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

BUSY_TIMEOUT = 0.3  # seconds
PATIENCE = BUSY_TIMEOUT * 10
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@contextmanager
def write_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock that every write needs."""
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def writes(client: httpx.AsyncClient) -> "asyncio.Future[list[httpx.Response]]":
    """Start writes of every kind."""
    creates = [client.post("/heroes/", json=HERO) for _ in range(20)]
    patches = [client.patch("/heroes/1", json=HERO) for _ in range(20)]
    deletes = [client.delete("/heroes/2")]
    return asyncio.gather(*creates, *patches, *deletes)


def statuses(responses: list[httpx.Response]) -> set[int]:
    return {response.status_code for response in responses}


@pytest.fixture
async def patient(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a service that waits as long for a lock as it does by default."""
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        await client.post("/heroes/", json=HERO)
        yield client


@pytest.fixture
async def impatient(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    short = settings.model_copy(update={"busy_timeout": BUSY_TIMEOUT})
    async with running(create_app(short)) as client:
        await client.post("/heroes/", json=HERO)
        await client.post("/heroes/", json=HERO)
        yield client


async def test_writes_wait_for_a_lock_that_is_held_for_a_second(
    patient: httpx.AsyncClient, settings: Settings
) -> None:
    with write_lock(settings):
        waiting = writes(patient)
        await asyncio.sleep(1)
        assert not waiting.done()
    assert statuses(await waiting) == {200}


async def test_writes_that_a_lock_is_held_against_for_longer_are_503_not_stored_and_come_back(
    impatient: httpx.AsyncClient, settings: Settings
) -> None:
    before = (await impatient.get("/heroes/")).json()
    with write_lock(settings):
        async with asyncio.timeout(PATIENCE):
            answers = await writes(impatient)
    assert statuses(answers) == {503}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert all("nothing was changed" in answer.json()["detail"] for answer in answers)
    assert (await impatient.get("/heroes/")).json() == before
    assert statuses(await writes(impatient)) == {200}


async def test_reads_do_not_wait_for_a_lock_that_writes_wait_for(
    patient: httpx.AsyncClient, settings: Settings
) -> None:
    with write_lock(settings):
        waiting = writes(patient)
        for _ in range(20):
            reads = await asyncio.gather(
                patient.get("/heroes/1"), patient.get("/heroes/"), patient.get("/heroes/?count=1")
            )
            assert statuses(list(reads)) == {200}
        assert not waiting.done()
    await waiting
