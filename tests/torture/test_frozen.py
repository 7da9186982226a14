"""A connection that stands still: every caller is answered by its deadline."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running
from tests import command

from .faults import Faults
from .frozen_end import DEADLINE, HERO, PATIENCE

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

WRITES = {"a BEGIN": "BEGIN", "an INSERT": "INSERT", "a COMMIT": "COMMIT"}
each_write = pytest.mark.parametrize("step", WRITES.values(), ids=WRITES.keys())
READS = {"a get": ("/heroes/1", "SELECT _found.id"), "a page": ("/heroes/", "WITH")}
each_read = pytest.mark.parametrize(("path", "step"), READS.values(), ids=READS.keys())


@pytest.fixture
def app(faults: Faults, tmp_path: Path) -> FastAPI:
    assert faults.met == 0
    url = f"sqlite:///{tmp_path}/heroes.db"
    return create_app(Settings(database_url=url, request_timeout=DEADLINE))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        await client.post("/heroes/", json=HERO)
        yield client


async def create_many(client: httpx.AsyncClient, count: int) -> list[httpx.Response]:
    """Create heroes at once; all of them are answered within the time-out of this test."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(client.post("/heroes/", json=HERO) for _ in range(count)))


async def get_many(client: httpx.AsyncClient, path: str, count: int) -> list[httpx.Response]:
    """Read at once; all are answered within the time-out of this test."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*(client.get(path) for _ in range(count)))


def statuses(responses: list[httpx.Response]) -> set[int]:
    return {response.status_code for response in responses}


async def served(ask: Callable[[], Awaitable[list[httpx.Response]]]) -> bool:
    """Say whether requests are all served; some may be late where other programs are at work."""
    async with asyncio.timeout(PATIENCE * 5):
        while statuses(await ask()) != {200}:
            pass
    return True


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@each_write
async def test_every_write_is_answered_503_by_its_deadline_while_the_writer_is_frozen(
    client: httpx.AsyncClient, faults: Faults, step: str
) -> None:
    with faults.freeze(step):
        assert statuses(await create_many(client, 20)) == {503}
        async with asyncio.timeout(PATIENCE):
            *created, patched, deleted = await asyncio.gather(
                *(client.post("/heroes/", json=HERO) for _ in range(20)),
                client.patch("/heroes/1", json=HERO),
                client.delete("/heroes/1"),
            )
        assert statuses([*created, patched, deleted]) == {503}
        assert statuses(await create_many(client, 20)) == {503}


@each_write
async def test_reads_go_on_while_the_writer_is_frozen(
    client: httpx.AsyncClient, faults: Faults, step: str
) -> None:
    with faults.freeze(step):
        await create_many(client, 20)
        assert await served(lambda: get_many(client, "/heroes/1", 20))


@each_write
async def test_writes_are_served_again_when_the_writer_thaws(
    client: httpx.AsyncClient, faults: Faults, step: str
) -> None:
    with faults.freeze(step):
        await create_many(client, 20)
    assert await served(lambda: create_many(client, 20))


async def test_a_write_that_was_begun_says_that_its_outcome_is_unknown(
    client: httpx.AsyncClient, faults: Faults
) -> None:
    with faults.freeze("COMMIT"):
        [response] = await create_many(client, 1)
    assert "unknown" in response.json()["detail"]


async def test_a_write_that_never_was_begun_says_so_and_is_not_stored(
    client: httpx.AsyncClient, faults: Faults
) -> None:
    with faults.freeze("INSERT") as frozen:
        first = asyncio.create_task(client.post("/heroes/", json=HERO))
        assert await asyncio.to_thread(frozen.wait, PATIENCE)
        [late] = await create_many(client, 1)
        await first
    assert "nothing was changed" in late.json()["detail"]
    assert statuses(await create_many(client, 1)) == {200}
    # The first hero, the one that was frozen and thawed, and the last; not the late one.
    assert len((await client.get("/heroes/")).json()) <= 3


async def test_the_service_is_not_ready_while_the_writer_is_frozen(
    client: httpx.AsyncClient, faults: Faults
) -> None:
    with faults.freeze("BEGIN"):
        await create_many(client, 1)
        assert statuses(await get_many(client, "/readyz", 3)) == {503}
    assert await served(lambda: get_many(client, "/readyz", 1))


@each_read
async def test_every_read_is_answered_503_by_its_deadline_when_its_reader_freezes(
    client: httpx.AsyncClient, faults: Faults, path: str, step: str
) -> None:
    with faults.freeze(step):
        assert statuses(await get_many(client, path, 20)) == {503}
        assert statuses(await get_many(client, path, 20)) == {503}


@each_read
async def test_reads_are_served_again_when_their_reader_thaws(
    client: httpx.AsyncClient, faults: Faults, path: str, step: str
) -> None:
    with faults.freeze(step):
        await get_many(client, path, 20)
    assert await served(lambda: get_many(client, path, 20))


@each_read
async def test_writes_go_on_while_a_reader_is_frozen(
    client: httpx.AsyncClient, faults: Faults, path: str, step: str
) -> None:
    with faults.freeze(step):
        await get_many(client, path, 20)
        assert await served(lambda: create_many(client, 20))


@pytest.mark.parametrize("query", ["count=true", "min_age=1", "offset=10001"])
async def test_gets_and_pages_go_on_while_a_scan_is_frozen(
    client: httpx.AsyncClient, faults: Faults, query: str
) -> None:
    await get_many(client, "/heroes/1", 1)
    with faults.freeze("WITH" if query.startswith("offset") else "") as frozen:
        scan = asyncio.create_task(client.get(f"/heroes/?{query}"))
        assert await asyncio.to_thread(frozen.wait, PATIENCE)
        faults.spare()
        assert await served(lambda: get_many(client, "/heroes/1", 20))
        assert await served(lambda: get_many(client, "/heroes/", 20))
        assert (await scan).status_code == 503


@each_write
async def test_a_writer_that_thaws_while_the_application_ends_is_closed_like_any_other(
    app: FastAPI, faults: Faults, tmp_path: Path, step: str
) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(running(app))
        with faults.freeze(step):
            assert statuses(await create_many(client, 1)) == {503}
            ending = asyncio.create_task(stack.pop_all().aclose())
            await asyncio.sleep(0)
        await ending
    assert names(tmp_path) == ["heroes.db"]


@each_write
def test_the_application_ends_in_bounded_time_while_the_writer_is_frozen(
    tmp_path: Path, step: str
) -> None:
    # In a process of its own: one that hung could not be ended otherwise.
    url = f"sqlite:///{tmp_path}/heroes.db"
    ended = command.run(url, step, program=("-m", "tests.torture.frozen_end"))
    assert (ended.returncode, ended.stderr) == (0, "")
