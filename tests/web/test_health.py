import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.database.sessions import open_database
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import running_cluster

SOON = 30.0  # seconds: far more than anything here takes
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
PINGS = 1_500  # SQLite begins its write-ahead log anew after 1,000 pages
TABLES = {
    "the service's": "SELECT 1",
    "the tutorial's": "CREATE TABLE hero (id INTEGER NOT NULL, name VARCHAR NOT NULL, age INTEGER, "
    "secret_name VARCHAR NOT NULL, PRIMARY KEY (id))",
}


@pytest.fixture
def other(client: httpx.AsyncClient, settings: Settings) -> Iterator[sqlite3.Connection]:
    """Return a connection to the running service's file, as another process has one."""
    assert client is not None
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as connection:
        yield connection


async def test_the_process_says_that_it_lives(client: httpx.AsyncClient) -> None:
    response = await client.get("/livez")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_the_service_is_ready_while_the_database_answers(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.sqlite
async def test_the_write_probe_is_in_no_batch_of_which_something_may_be_refused(
    app: FastAPI, client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    [writes] = [queue for queue in app.state.queues if queue.writes]
    other.execute("BEGIN IMMEDIATE")
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(client.post("/heroes/", json=hero)) for _ in range(9)]
        while writes.waiting < 8:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        asked.append(tasks.create_task(client.get("/readyz")))
        while writes.waiting < 9:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0)
        other.execute("ROLLBACK")
    assert [(await answer).status_code for answer in asked] == [200] * 10
    sizes = dict(zip(writes.sizes.bounds, writes.sizes.counts, strict=False))
    assert (sizes[1], sizes[4], sizes[8]) == (2, 1, 1), "the first, the probe, and the others"


@pytest.mark.sqlite
async def test_the_service_lives_and_is_not_ready_while_another_process_holds_the_lock(
    client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    response = await client.get("/readyz")
    assert (await client.get("/livez")).status_code == 200
    other.execute("ROLLBACK")
    assert response.status_code == 503
    assert isinstance(response.json()["detail"], str)
    assert int(response.headers["Retry-After"]) >= 1
    assert (await client.get("/readyz")).status_code == 200


async def limit_pages(app: FastAPI, pages: int) -> None:
    """Let the database have so many pages; it has no fewer than it has already."""
    async with app.state.database.write_session() as session:
        connection = await session.connection()
        await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")


@pytest.mark.sqlite
async def test_the_service_is_not_ready_while_the_database_may_have_no_more_pages(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    large = HERO | {"secret_name": "?" * 9_000}
    assert (await client.post("/heroes/", json=large)).status_code == 200
    await limit_pages(app, 1)
    assert (await client.post("/heroes/", json=large)).status_code == 507
    response = await client.get("/readyz")
    assert response.status_code == 507
    assert "Make room" in response.json()["detail"]
    await client.delete("/heroes/1")  # whose pages are free
    assert (await client.get("/readyz")).status_code == 200
    await client.post("/heroes/", json=large)
    assert (await client.get("/readyz")).status_code == 507
    await limit_pages(app, 1_000_000)
    assert (await client.get("/readyz")).status_code == 200


async def test_the_service_is_not_ready_while_a_postgresql_that_was_demoted_is_read_only() -> None:
    with running_cluster() as cluster:
        async with running(create_app(Settings(database_url=cluster.url()))) as client:

            async def until(status: int) -> None:
                # The server tells its processes one after the other.
                async with asyncio.timeout(SOON):
                    while (await client.get("/readyz")).status_code != status:
                        pass

            await until(200)
            with cluster.connect() as other:
                other.execute("SET default_transaction_read_only = off")
                other.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                other.execute("SELECT pg_reload_conf()")
                await until(503)
                assert (await client.post("/heroes/", json=HERO)).status_code == 503
                assert (await client.get("/heroes/")).json() == []
                other.execute("ALTER SYSTEM RESET default_transaction_read_only")
                other.execute("SELECT pg_reload_conf()")
            await until(200)
            assert (await client.post("/heroes/", json=HERO)).status_code == 200


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("version", [0, -7])
async def test_a_probe_writes_a_page_and_changes_nothing(
    tmp_path: Path, table: str, version: int
) -> None:
    wal = tmp_path / "heroes.db-wal"
    with closing(sqlite3.connect(tmp_path / "heroes.db", isolation_level=None)) as other:
        other.execute(table)
        other.execute(f"PRAGMA user_version={version}")

        def content() -> list[object]:
            return [*other.iterdump(), *other.execute("PRAGMA user_version")]

        async with running(
            create_app(Settings(database_url=f"sqlite:///{wal.with_suffix('.db')}"))
        ) as client:
            for _ in range(2):  # without and with a hero
                before, size = content(), wal.stat().st_size
                assert (await client.get("/readyz")).status_code == 200
                assert wal.stat().st_size > size
                assert content() == before
                await client.post("/heroes/", json=HERO)


async def test_probes_do_not_make_the_write_ahead_log_of_an_idle_file_grow_without_end(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/heroes.db"
    async with (
        open_database(
            Settings(database_url=url, synchronous="NORMAL"), {}, [heroes.table]
        ) as database,
        database.write_session() as session,
    ):
        for _ in range(PINGS):
            await heroes.check_writes(session, [None])
            await session.commit()
        assert 4_096 < (tmp_path / "heroes.db-wal").stat().st_size < 1_100 * 4_120
