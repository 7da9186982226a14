"""More connections than expected, while nothing can be stored."""

import asyncio
import random
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.servers import Server, serving

from .ledger import Ledger, stored_heroes
from .load import Load
from .wire import Answer, Connection, request_bytes

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

CONNECTIONS = 640  # more than are begun at a time
BEGUN = 256  # writes at a time
PATIENCE = 5.0  # seconds: several times the one that is promised
TIMEOUT = 1.0  # seconds, the setting
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("overload"), busy_timeout=60, request_timeout=60) as ours:
        yield ours


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


Creates = list[asyncio.Task[Answer]]


async def begin_creates(stack: AsyncExitStack, server: Server, hero: object = HERO) -> Creates:
    """Let every client create a hero; return when all have asked."""
    clients = await connections(stack, server)
    for client in clients:
        await client.send(request_bytes("POST", "/heroes/", hero))
    return [asyncio.create_task(client.receive()) for client in clients]


async def test_creates_wait_until_they_can_be_stored_and_none_is_refused(server: Server) -> None:
    before = len(stored_heroes(server.file))
    async with AsyncExitStack() as stack:
        with write_lock(server.file):
            creates = await begin_creates(stack, server)
            async with asyncio.timeout(PATIENCE), Connection(server.host, server.port) as reader:
                page = await reader.request("GET", "/heroes/?limit=1")
            assert not any(create.done() for create in creates)
        answers = await asyncio.gather(*creates)
    assert page.status == 200, "reads do not wait for writes"
    assert {answer.status for answer in answers} == {200}
    assert len(stored_heroes(server.file)) == before + CONNECTIONS
    assert server.log.read_text() == ""


async def test_those_that_wait_at_their_connections_are_counted(server: Server) -> None:
    expected = f"hero_api_requests_waiting {CONNECTIONS - BEGUN}.0"
    async with AsyncExitStack() as stack:
        with write_lock(server.file):
            creates = await begin_creates(stack, server)
            async with asyncio.timeout(PATIENCE), Connection(server.host, server.port) as reader:
                while expected not in (await reader.request("GET", "/metrics")).body.decode():
                    pass
        await asyncio.gather(*creates)


async def test_those_who_have_waited_for_their_whole_time_are_refused_and_keep_their_connection(
    tmp_path: Path,
) -> None:
    settings = {"busy_timeout": 60, "request_timeout": TIMEOUT, "cors_origins": '["*"]'}
    with serving(tmp_path, **settings) as server:  # type: ignore[arg-type]
        async with AsyncExitStack() as stack:
            clients = await connections(stack, server)
            post = request_bytes("POST", "/heroes/", HERO).replace(
                b"Host:", b"Origin: https://heroes.example\r\nHost:"
            )
            with write_lock(server.file):
                for client in clients:
                    await client.send(post)
                async with asyncio.timeout(PATIENCE):
                    answers = await asyncio.gather(*(client.receive() for client in clients))
            again = [await client.request("GET", "/livez") for client in clients]
        assert {answer.status for answer in answers} == {503}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
        assert {answer.headers["access-control-allow-origin"] for answer in answers} == {"*"}
        begun = sum("nothing was changed" in answer.json()["detail"] for answer in answers)
        assert 0 < begun < CONNECTIONS, "the others were not begun"
        assert {answer.status for answer in again} == {200}
        assert len(stored_heroes(server.file)) == 0


async def test_a_client_that_closes_its_own_side_while_it_waits_is_answered(
    server: Server,
) -> None:
    async with AsyncExitStack() as stack:
        with write_lock(server.file):
            creates = await begin_creates(stack, server)
            wire = stack.enter_context(socket.create_connection((server.host, server.port)))
            wire.settimeout(PATIENCE)
            wire.sendall(request_bytes("POST", "/heroes/", HERO))
            wire.shutdown(socket.SHUT_WR)
        await asyncio.gather(*creates)
        answer = await asyncio.to_thread(wire.recv, 1_000)
    assert answer.startswith(b"HTTP/1.1 200")


async def test_nothing_acknowledged_is_lost_by_an_overload_and_it_is_over_when_it_ends(
    tmp_path: Path, seed: int
) -> None:
    ledger = Ledger()
    load = Load(ledger, random.Random(seed), clients=CONNECTIONS)
    load.at(3 * CONNECTIONS, load.stop)
    with serving(tmp_path) as server:
        await load.run(server.host, server.port)
        ended = time.monotonic()
        async with Connection(server.host, server.port) as client:
            answer = await client.request("POST", "/heroes/", HERO)
        assert answer.status == 200
        assert time.monotonic() - ended < 2 * PATIENCE
        stored = stored_heroes(server.file)
        del stored[answer.json()["id"]]
        assert ledger.check(stored) == ([], [])
    assert load.unavailable == 0
    assert load.broken == 0
