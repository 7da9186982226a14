"""Connections whose server is silent: frozen backends, which take every byte and answer none."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from hero_api.app import create_app
from hero_api.database.postgresql.watchdog import ConnectionWatchdog
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import Cluster

DEADLINE = 0.3  # seconds that a request waits
SOON = 30.0  # far more than anything here takes
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@pytest.fixture
def named(cluster: Cluster) -> Settings:
    """Settings whose connections can be told from those of every other test."""
    url = f"{cluster.new_schema()}&application_name=silent"
    return Settings(database_url=url, request_timeout=DEADLINE)


@pytest.fixture
async def client(named: Settings) -> AsyncIterator[httpx.AsyncClient]:
    patient = named.model_copy(update={"request_timeout": SOON})
    async with running(create_app(patient)) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
    async with running(create_app(named)) as client:
        await ask_until_served(client, "GET", "/heroes/1")
        yield client


@contextmanager
def frozen(cluster: Cluster) -> Iterator[set[int]]:
    """Let the connections of the service that there are now be silent, until the end."""
    with cluster.connect() as other:
        backends = backends_of(other)
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        try:
            yield backends
        finally:
            for backend in backends:
                os.kill(backend, signal.SIGCONT)


def backends_of(other: "psycopg.Connection[tuple[object, ...]]") -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'silent'"
    return {int(str(pid)) for (pid,) in other.execute(query)}


async def ask(client: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    content = HERO if method in {"POST", "PATCH"} else None
    async with asyncio.timeout(SOON):
        return await client.request(method, path, json=content)


async def ask_until_served(client: httpx.AsyncClient, method: str, path: str) -> int:
    """Ask until it is not 503; return how often it was."""
    refused = 0
    async with asyncio.timeout(SOON):
        while True:
            answer = await ask(client, method, path)
            if answer.status_code == 200:
                return refused
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            refused += 1


each_queue = pytest.mark.parametrize(
    ("method", "path"), [("POST", "/heroes/"), ("PATCH", "/heroes/1"), ("GET", "/heroes/1")]
)


@each_queue
async def test_a_queue_is_free_again_while_its_connection_is_silent(
    client: httpx.AsyncClient, cluster: Cluster, method: str, path: str
) -> None:
    with frozen(cluster):
        assert (await ask(client, method, path)).status_code == 503
        await ask_until_served(client, method, path)


async def test_connections_that_are_idle_when_one_is_silent_are_not_waited_for(
    client: httpx.AsyncClient, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    # Each of these has a queue, and so a connection that reads.
    paths = ["/heroes/1", "/heroes/", "/heroes/?count=true"]
    await asyncio.gather(*(ask(client, "GET", path) for path in paths * 5))
    with frozen(cluster) as silent:
        assert len(silent) >= len(paths)
        for _ in range(5):
            await ask_until_served(client, "GET", "/heroes/1")
    assert len([line for line in caplog.messages if "did not answer" in line]) == 1


async def test_one_line_in_the_log_says_which_server_is_silent(
    client: httpx.AsyncClient, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    with frozen(cluster), caplog.at_level(logging.WARNING):
        await ask_until_served(client, "POST", "/heroes/")
    lines = [record.getMessage() for record in caplog.records]
    [silent] = [line for line in lines if "did not answer" in line]
    assert silent.startswith(f"127.0.0.1:{cluster.port} ")
    assert len(lines) == 2  # the other says that the batch failed


async def test_what_a_silent_server_had_taken_is_not_stored_when_it_goes_on(
    client: httpx.AsyncClient, cluster: Cluster
) -> None:
    with frozen(cluster) as silent:
        answer = await ask(client, "POST", "/heroes/")
        assert "unknown" in answer.json()["detail"]
        await ask_until_served(client, "GET", "/heroes/1")
    await asyncio.to_thread(until_gone, cluster, silent)
    assert len((await ask(client, "GET", "/heroes/")).json()) == 1


def until_gone(cluster: Cluster, backends: set[int]) -> None:
    """Wait until the server has noticed that these connections are no more."""
    deadline = time.monotonic() + SOON
    with cluster.connect() as other:
        while backends_of(other) & backends:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def stand_still(seconds: float) -> None:
    """Let nothing in this process go on, as SIGSTOP does."""
    time.sleep(seconds)


async def test_a_server_that_answered_while_this_process_stood_still_was_not_silent(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(Settings(database_url=cluster.new_schema()).url)
    watch = ConnectionWatchdog(engine, DEADLINE)
    async with engine.connect() as connection:
        asked = asyncio.create_task(connection.execute(text("SELECT 1")))
        for _ in range(10):  # turns of the loop: the statement is sent
            await asyncio.sleep(0)
        stand_still(2 * DEADLINE)
        assert (await asked).scalar() == 1
        assert (await connection.execute(text("SELECT 2"))).scalar() == 2
    await watch.close()
    await engine.dispose()
    assert caplog.messages == []


async def test_an_application_that_ends_leaves_no_batch_that_waits_for_a_silent_server(
    cluster: Cluster, named: Settings
) -> None:
    app = create_app(named.model_copy(update={"request_timeout": SOON}))
    asks = [("POST", "/heroes/"), ("PATCH", "/heroes/1"), ("GET", "/heroes/1")]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(running(app))
        for each in asks:
            assert (await ask(client, *each)).status_code == 200
        ending = stack.pop_all()
    with frozen(cluster):
        pending = [asyncio.create_task(ask(client, *each)) for each in asks]
        for _ in range(10):  # turns of the loop: each batch has begun
            await asyncio.sleep(0)
        batches = {queue.name: sum(queue.sizes.counts) for queue in app.state.queues}
        assert (batches["write"], batches["get_hero"]) == (3, 2)
        app.state.queues.give_up()
        assert {answer.status_code for answer in await asyncio.gather(*pending)} == {503}
        async with asyncio.timeout(SOON / 2):
            await ending.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
