"""Clients that vanish at random points."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers import Server, serving

from .ledger import Ledger, stored_heroes
from .load import Load
from .vanish import busy, settle, statuses, vanish, warm_up

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

CLIENTS = 500


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    # One reading connection, so that how many are open does not depend on the load.
    with serving(tmp_path, read_connections=1) as server:
        await warm_up(server)
        yield server


async def test_clients_that_vanish_leave_nothing_over_but_what_they_asked_for(
    server: Server, seed: int
) -> None:
    before = await warm_up(server)
    asked = await vanish(server, random.Random(seed), CLIENTS)
    assert await settle(server, before) == before
    assert await busy(server) == 0
    assert await statuses(server) == [200, 200]
    assert server.log.read_text() == ""
    vanished = [
        hero for hero in stored_heroes(server.file).values() if hero.name.startswith("vanished")
    ]
    assert len(vanished) == len({*vanished})
    assert {*vanished} <= asked


async def test_others_are_served_beside_clients_that_vanish(server: Server, seed: int) -> None:
    chance = random.Random(seed)
    ledger = Ledger()
    load = Load(ledger, chance, clients=8)
    loading = asyncio.create_task(load.run(server.host, server.port))
    await vanish(server, chance, CLIENTS)
    load.stop()
    await loading
    assert (load.broken, load.unavailable) == (0, 0)
    stored = stored_heroes(server.file)
    known = {hero_id: stored[hero_id] for hero_id in ledger.heroes if hero_id in stored}
    assert ledger.check(known).lost == []
