"""Ten times the connections that fill a queue."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.servers import Server, serving

from .ledger import Ledger, stored_heroes
from .load import Load
from .wire import Answer, Connection

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

WAITING = 64
CONNECTIONS = 10 * WAITING
SHORTEST_REST = 0.3  # seconds that a client that came back too soon is not listened to
PATIENCE = 5.0  # seconds: several times the one that is promised
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("overload"), max_waiting=WAITING) as server:
        yield server


@contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """Hold the lock that every write needs."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def connections(stack: AsyncExitStack, server: Server) -> list[Connection]:
    opening = (Connection(server.host, server.port) for _ in range(CONNECTIONS))
    return [await stack.enter_async_context(connection) for connection in opening]


async def excess(creates: list[asyncio.Task[Answer]]) -> list[Answer]:
    """Return the answers that come while nothing is stored; wait for all that are to come."""
    answers = []
    async with asyncio.timeout(PATIENCE):
        for answer in asyncio.as_completed(creates):
            answers.append(await answer)
            # One is being stored, and a queueful waits.
            if len(answers) == CONNECTIONS - WAITING - 1:
                break
    return answers


async def overload(server: Server) -> tuple[Sequence[Answer], Sequence[Answer]]:
    """Create more heroes at once than have room; return what was refused, and all answers."""
    async with AsyncExitStack() as stack:
        clients = await connections(stack, server)
        with write_lock(server.file):
            creates = [
                asyncio.create_task(client.request("POST", "/heroes/", HERO)) for client in clients
            ]
            refused = await excess(creates)
        answers = await asyncio.gather(*creates)
    return refused, answers


async def test_an_overload_is_refused_at_once_and_the_rest_is_stored(server: Server) -> None:
    before = len(stored_heroes(server.file))
    refused, answers = await overload(server)
    assert {answer.status for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all("nothing was done" in answer.json()["detail"] for answer in refused)
    assert sum(answer.status == 200 for answer in answers) == WAITING + 1
    assert len(stored_heroes(server.file)) == before + WAITING + 1


async def test_reads_are_served_while_writes_are_refused(server: Server) -> None:
    async with AsyncExitStack() as stack:
        *clients, reader = await connections(stack, server)
        with write_lock(server.file):
            creates = [
                asyncio.create_task(client.request("POST", "/heroes/", HERO)) for client in clients
            ]
            async with asyncio.timeout(PATIENCE):
                page = await reader.request("GET", "/heroes/?limit=1")
        await asyncio.gather(*creates)
    assert page.status == 200


async def test_a_client_that_does_not_wait_is_slowed_down_and_the_others_are_not(
    server: Server,
) -> None:
    async with AsyncExitStack() as stack:
        *clients, hasty, other = await connections(stack, server)
        with write_lock(server.file):
            creates = [
                asyncio.create_task(client.request("POST", "/heroes/", HERO)) for client in clients
            ]
            await queue_is_full(other)
            began = time.monotonic()
            refused = [await hasty.request("POST", "/heroes/", HERO) for _ in range(6)]
            took = time.monotonic() - began
            began = time.monotonic()
            pages = [await other.request("GET", "/heroes/?limit=1") for _ in range(6)]
            took_other = time.monotonic() - began
        await asyncio.gather(*creates)
    assert {answer.status for answer in refused} == {503}
    assert {page.status for page in pages} == {200}
    assert took >= 4 * SHORTEST_REST  # four came back too soon
    assert took_other < took


async def test_a_client_that_was_refused_once_is_listened_to_at_once(server: Server) -> None:
    async with AsyncExitStack() as stack:
        *clients, polite, other = await connections(stack, server)
        with write_lock(server.file):
            creates = [
                asyncio.create_task(client.request("POST", "/heroes/", HERO)) for client in clients
            ]
            await queue_is_full(other)
            refused = await polite.request("POST", "/heroes/", HERO)
            began = time.monotonic()
            pages = [await polite.request("GET", "/heroes/?limit=1") for _ in range(6)]
            took = time.monotonic() - began
        await asyncio.gather(*creates)
    assert refused.status == 503
    assert {page.status for page in pages} == {200}
    assert took < PATIENCE


async def queue_is_full(client: Connection) -> None:
    async with asyncio.timeout(PATIENCE):
        line = f'hero_api_queue_waiting{{queue="write"}} {WAITING}.0'
        while line not in (await client.request("GET", "/metrics")).body.decode():
            pass


async def test_an_overload_is_two_lines_of_the_log(server: Server) -> None:
    refused, _ = await overload(server)
    assert {answer.status for answer in refused} == {503}
    async with asyncio.timeout(PATIENCE):
        while not server.log.read_text().endswith("were refused\n"):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0)
    lines = server.log.read_text().splitlines()
    assert [line.partition(" overload ")[2].split()[0] for line in lines] == ["begins:", "has"] * (
        len(lines) // 2
    )


async def test_nothing_acknowledged_is_lost_by_an_overload_and_it_is_over_when_it_ends(
    tmp_path: Path, seed: int
) -> None:
    ledger = Ledger()
    load = Load(ledger, random.Random(seed), clients=CONNECTIONS)
    load.at(3 * CONNECTIONS, load.stop)
    with serving(tmp_path, max_waiting=WAITING // 8) as server:
        await load.run(server.host, server.port)
        ended = time.monotonic()
        async with Connection(server.host, server.port) as client:
            answer = await client.request("POST", "/heroes/", HERO)
        assert answer.status == 200
        assert time.monotonic() - ended < 2 * PATIENCE
        stored = stored_heroes(server.file)
        del stored[answer.json()["id"]]
        assert ledger.check(stored) == ([], [])
    assert load.unavailable > 0
    assert load.broken == 0
