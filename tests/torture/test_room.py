"""No room: a page limit gives FULL, a limit on the size of files gives an error of input/output."""

import asyncio
import random
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hero_api.settings import Settings
from tests.servers import Server, serving

from .ledger import Ledger, integrity, stored_heroes
from .load import Load
from .wire import Connection

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

LARGE = {"name": "Deadpond", "secret_name": "?" * 9_000}


async def limit_pages(app: FastAPI, pages: int) -> None:
    """Let the database have so many pages; it has no fewer than it has already."""
    async with app.state.database.write_session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


async def fill(client: httpx.AsyncClient) -> list[httpx.Response]:
    return await asyncio.gather(*(client.post("/heroes/", json=LARGE) for _ in range(60)))


@pytest.fixture
async def filled(client: httpx.AsyncClient, app: FastAPI) -> list[httpx.Response]:
    """Fill a database until there is no room left; what every create was answered."""
    await limit_pages(app, 50)
    return [*await fill(client), *await fill(client)]


def test_creates_that_find_no_room_are_answered_507(filled: list[httpx.Response]) -> None:
    assert {response.status_code for response in filled} <= {200, 507}
    assert filled[-1].status_code == 507
    assert "nothing was changed" in filled[-1].json()["detail"]


def test_what_found_no_room_is_not_stored_and_the_rest_is(
    filled: list[httpx.Response], settings: Settings
) -> None:
    created = {response.json()["id"] for response in filled if response.status_code == 200}
    assert {*stored_heroes(settings.path)} == created


@pytest.mark.usefixtures("filled")
async def test_reads_go_on_where_there_is_no_room(client: httpx.AsyncClient) -> None:
    assert (await client.get("/heroes/")).status_code == 200
    assert (await client.get("/heroes/0")).status_code == 404


@pytest.mark.usefixtures("filled")
async def test_writes_come_back_when_there_is_room_again(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await limit_pages(app, 1_000_000)
    assert {response.status_code for response in await fill(client)} == {200}


@contextmanager
def file_limit(server: Server) -> Iterator[None]:
    """Let no file of the server grow: what would let it is an error of input/output."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    files = server.file.parent.glob("heroes.db*")
    largest = max(path.stat().st_size for path in files if not path.name.endswith("-shm"))
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest, hard))
    yield
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[Connection]:
    async with Connection(server.host, server.port) as connection:
        await connection.request("POST", "/heroes/", LARGE)
        yield connection


async def test_creates_that_cannot_be_written_are_answered_503(
    server: Server, connection: Connection
) -> None:
    with file_limit(server):
        answers = [await connection.request("POST", "/heroes/", LARGE) for _ in range(5)]
    assert {answer.status for answer in answers} == {503}
    assert all("retry-after" in answer.headers for answer in answers)


async def test_reads_go_on_where_nothing_can_be_written(
    server: Server, connection: Connection
) -> None:
    with file_limit(server):
        await connection.request("POST", "/heroes/", LARGE)
        assert (await connection.request("GET", "/heroes/1")).status == 200
        assert (await connection.request("GET", "/heroes/")).status == 200


async def test_the_service_is_ready_only_while_files_may_grow(
    server: Server, connection: Connection
) -> None:
    with file_limit(server):
        assert (await connection.request("POST", "/heroes/", LARGE)).status == 503
        probe = await connection.request("GET", "/readyz")
        assert (await connection.request("GET", "/livez")).status == 200
    assert probe.status == 503
    assert "nothing was changed" in probe.json()["detail"]
    assert (await connection.request("GET", "/readyz")).status == 200


async def test_writes_come_back_without_a_restart_when_files_may_grow_again(
    server: Server, connection: Connection
) -> None:
    with file_limit(server):
        await connection.request("POST", "/heroes/", LARGE)
    assert (await connection.request("POST", "/heroes/", LARGE)).status == 200


async def test_nothing_acknowledged_is_lost_when_files_cannot_grow_under_a_load(
    server: Server, seed: int
) -> None:
    ledger = Ledger()
    load = Load(ledger, random.Random(seed), clients=16)
    load.at(400, load.stop)
    await load.run(server.host, server.port)
    with file_limit(server):
        load.go_on(400)
        await load.run(server.host, server.port)
        failed = load.unavailable
    load.go_on(400)
    await load.run(server.host, server.port)
    assert 0 < failed == load.unavailable
    assert load.broken == 0
    assert ledger.check(stored_heroes(server.file)) == ([], [])
    assert integrity(server.file) == "ok"
