"""`kill -9` in the middle of a load, again and again, on one file."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.servers import Server, launching, listening

from .ledger import Ledger, integrity, stored_heroes
from .load import Load

CLIENTS = 32


@dataclass
class Crashes:
    """What came of the crashes so far."""

    cycles: int = 0
    kills: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    lost: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)


async def crash(
    directory: Path, seed: int, cycles: int, *, answers: int = 400, load: Load | None = None
) -> AsyncIterator[Crashes]:
    """Kill the server in the middle of a load, restart it, check the file, and load it again.

    Yields what came of it after each cycle. Each load has at most so many `answers`; where there is
    a `load` already, it is that one each time.
    Raises `AssertionError` when the server has ended by itself.
    """
    chance = random.Random(seed)
    crashes = Crashes(ledger=load.ledger) if load else Crashes()
    for cycle in range(cycles + 1):
        with launching(directory) as process:
            server = await asyncio.to_thread(listening, process, directory)
            lost, strays = crashes.ledger.check(stored_heroes(server.file))
            crashes.lost += lost
            crashes.strays += strays
            said = integrity(server.file)
            crashes.damage += [] if said == "ok" else [said]
            crashes.cycles = cycle
            if cycle:
                yield crashes
            if cycle < cycles:
                its_load = load or Load(crashes.ledger, chance, clients=CLIENTS)
                its_load.at(chance.randrange(1, answers), partial(_kill, server, crashes))
                await its_load.run(server.host, server.port)
                assert process.poll() == -signal.SIGKILL


def _kill(server: Server, crashes: Crashes) -> None:
    assert server.process.poll() is None, "it has ended by itself"
    server.kill()
    crashes.kills += 1
