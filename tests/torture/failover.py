"""Fail-overs of PostgreSQL in the middle of a load: the service is not told, and goes on."""

import asyncio
import time
from typing import NamedTuple

from hero_api.settings import Settings
from tests.clusters import stored
from tests.replication import Group, wait_until
from tests.servers import Server

from .ledger import Hero, Verdict
from .load import Load

CLIENTS = 16
PAUSE = 0.05  # seconds that a client waits after a 503
PROMISE = 5.0  # seconds from the promotion until changes are acknowledged again
PATIENCE = 120.0  # seconds: a fail-over that takes longer hangs
_AROUND = 150  # changes that are acknowledged before, and as many after


class Failover(NamedTuple):
    """What came of one: the longest times without an acknowledged change, and what was lost."""

    outage: float  # seconds, since the primary was lost
    stall: float  # seconds, since a standby was promoted
    verdict: Verdict
    duplicates: int


async def fail_over(group: Group, server: Server, load: Load, *, frozen: bool) -> Failover:
    """Lose the primary under a load, promote a standby, and compare what is stored then."""
    tally = load.ledger.tally
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        load.stopped = False
        tasks.create_task(load.run(server.host, server.port))
        goal = tally["acknowledged"] + _AROUND
        await load.until(lambda: tally["acknowledged"] >= goal)
        lost_at = time.monotonic()
        await asyncio.to_thread(group.lose_primary, frozen=frozen)
        refused = load.unavailable + CLIENTS
        await load.until(lambda: load.unavailable >= refused)
        standby = await asyncio.to_thread(group.most_advanced)
        load.measure_gap()
        promoted_at = time.monotonic()
        await asyncio.to_thread(group.promote, standby)
        if frozen:
            await asyncio.to_thread(group.look_for_primary_at, [standby])
        goal = tally["acknowledged"] + _AROUND
        await load.until(lambda: tally["acknowledged"] >= goal)
        stall = load.longest_gap
        load.stop()
    heroes = await asyncio.to_thread(stored_heroes, group)
    names = {hero.name for hero in heroes.values()}
    verdict = load.ledger.check(heroes)
    return Failover(promoted_at - lost_at + stall, stall, verdict, len(heroes) - len(names))


def stored_heroes(group: Group) -> dict[int, Hero]:
    """Read every hero from the primary, when no change of the service's is under way there."""
    busy = "SELECT FROM pg_stat_activity WHERE application_name = 'hero-api' AND state <> 'idle'"
    wait_until(group.primary, f"SELECT NOT EXISTS ({busy})")
    # Not from all hosts: who does not say otherwise waits for a frozen one for minutes.
    rows = stored(Settings(database_url=group.primary.url()))
    return {hero_id: Hero(*fields) for hero_id, *fields in rows}
