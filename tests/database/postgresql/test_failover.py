"""The service through fail-overs of PostgreSQL: three servers, of which one is lost."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import MISSING, has_postgresql
from tests.replication import Group, running_group, wait_until
from tests.servers import Server, serving
from tests.torture.failover import CLIENTS, PAUSE, PROMISE, fail_over, stored_heroes
from tests.torture.ledger import Ledger
from tests.torture.load import Load
from tests.torture.retries import Retries
from tests.torture.wire import Connection, request_bytes

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
DEADLINE = 0.5  # seconds that a request waits, where a frozen server is waited for
NOBODY = "SELECT NOT EXISTS (SELECT FROM"
SECOND_BATCH = b'hero_api_queue_batch_items_count{queue="write"} 2.0'
END = 5.0  # seconds in which the service ends
SOON = 30.0  # seconds: far more than anything here takes
LATE = 10 * PROMISE  # seconds, on a machine that does much else


@pytest.fixture(scope="module")
def servers() -> Iterator[Group]:
    if not has_postgresql():
        pytest.skip(MISSING)
    with running_group() as group:
        yield group


@pytest.fixture
def group(servers: Group) -> Group:
    """A primary with two standbys that follow it, whatever was done to them before."""
    servers.heal()
    with servers.primary.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS hero, hero_api_idempotency")
    return servers


@pytest.fixture
def load(seed: int) -> Load:
    return Load(Ledger(), random.Random(seed), clients=CLIENTS, pause=PAUSE)


def assert_ends_cleanly(server: Server) -> None:
    """Let the server end, and look for what should never be in its log."""
    server.process.terminate()
    assert server.process.wait(SOON) == 0
    log = server.log.read_text()
    assert [word for word in ("Traceback", "Warning", "never retrieved") if word in log] == []


async def test_the_service_goes_on_when_the_primary_is_killed(
    group: Group, tmp_path: Path, load: Load
) -> None:
    with serving(tmp_path, database_url=group.url()) as server:
        seen = await fail_over(group, server, load, frozen=False)
        print(seen)  # noqa: T201
        assert (seen.verdict, seen.duplicates, load.broken) == (([], []), 0, 0)
        assert seen.stall < LATE
        assert_ends_cleanly(server)


async def test_the_service_goes_on_when_the_primary_freezes_and_stays_when_it_thaws(
    group: Group, tmp_path: Path, load: Load
) -> None:
    old = group.primary
    # The old one is last: where a connection is cut for being slow, the next goes to the new one.
    url = group.url(last=old)
    with serving(tmp_path, database_url=url, request_timeout=4 * DEADLINE) as server:
        seen = await fail_over(group, server, load, frozen=True)
        print(seen)  # noqa: T201
        assert (seen.verdict, seen.duplicates, load.broken) == (([], []), 0, 0)
        assert seen.stall < LATE
        group.thaw()
        # No standby follows it: it can acknowledge nothing any more.
        await asyncio.to_thread(wait_until, old, f"{NOBODY} pg_stat_replication)")
        load.go_on(300)
        await load.run(server.host, server.port)
        # But for COMMITs of before, which wait there for a standby whoever has gone.
        service = "pg_stat_activity WHERE application_name = 'hero-api'"
        left = f"{NOBODY} {service} AND wait_event IS DISTINCT FROM 'SyncRep')"
        await asyncio.to_thread(wait_until, old, left)
        assert load.ledger.check(stored_heroes(group)) == ([], [])
        assert_ends_cleanly(server)


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
async def test_creates_that_are_sent_again_until_they_are_answered_are_done_once(
    group: Group, tmp_path: Path, seed: int, *, frozen: bool
) -> None:
    retries = Retries(Ledger(), random.Random(seed), clients=CLIENTS, pause=PAUSE)
    with serving(tmp_path, database_url=group.url(), request_timeout=1) as server:
        seen = await fail_over(group, server, retries, frozen=frozen)
        assert (seen.verdict, seen.duplicates, retries.broken) == (([], []), 0, 0)
        assert retries.wrong(stored_heroes(group)) == []
        assert_ends_cleanly(server)


async def test_requests_are_answered_by_their_deadline_while_the_primary_is_frozen(
    group: Group, tmp_path: Path
) -> None:
    with serving(tmp_path, database_url=group.url(), request_timeout=DEADLINE) as server:
        async with Connection(server.host, server.port) as client:
            assert (await client.request("POST", "/heroes/", HERO)).status == 200
            with group.frozen_primary():
                # Past the first: they meet the connection, its end, and connecting in vain.
                for _ in range(4):
                    for method, path in (("POST", "/heroes/"), ("GET", "/heroes/1")):
                        before = time.monotonic()
                        answer = await client.request(method, path, HERO)
                        assert time.monotonic() - before < 10 * DEADLINE
                        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            while (await client.request("POST", "/heroes/", HERO)).status == 503:
                pass
        assert_ends_cleanly(server)


async def test_the_service_ends_while_the_primary_is_frozen(group: Group, tmp_path: Path) -> None:
    with serving(tmp_path, database_url=group.url()) as server:
        async with Connection(server.host, server.port) as client:
            assert (await client.request("POST", "/heroes/", HERO)).status == 200
            with group.frozen_primary():
                await client.send(request_bytes("POST", "/heroes/", HERO))
                async with Connection(server.host, server.port) as other:
                    while SECOND_BATCH not in (await other.request("GET", "/metrics")).body:
                        pass
                before = time.monotonic()
                assert_ends_cleanly(server)
                assert time.monotonic() - before < 2 * END
                assert (await client.receive()).status == 503


# Reads from a standby


async def test_reads_come_from_the_standby_and_lag_with_it(group: Group) -> None:
    standby = group.standbys[0]
    settings = Settings(database_url=group.url(), read_database_url=standby.url())
    async with running(create_app(settings)) as client:
        with standby.connect() as connection:
            await asyncio.to_thread(wait_until, standby, "SELECT to_regclass('hero') IS NOT NULL")
            connection.execute("SELECT pg_wal_replay_pause()")
            try:
                hero = (await client.post("/heroes/", json=HERO)).json()
                assert (await client.get(f"/heroes/{hero['id']}")).status_code == 404
            finally:
                connection.execute("SELECT pg_wal_replay_resume()")
            query = f"SELECT EXISTS (SELECT FROM hero WHERE id = {hero['id']})"
            await asyncio.to_thread(wait_until, standby, query)
            assert (await client.get(f"/heroes/{hero['id']}")).json() == hero


async def test_with_remote_apply_a_write_is_read_on_the_standby_as_soon_as_it_is_answered(
    group: Group,
) -> None:
    standby = group.standbys[0]
    settings = Settings(database_url=group.url(), read_database_url=standby.url())
    async with running(create_app(settings)) as client:
        with group.waiting_until_shown(standby):
            for _ in range(100):
                hero = (await client.post("/heroes/", json=HERO)).json()
                assert (await client.get(f"/heroes/{hero['id']}")).json() == hero
                await client.delete(f"/heroes/{hero['id']}")
                assert (await client.get(f"/heroes/{hero['id']}")).status_code == 404
