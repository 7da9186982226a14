"""Backups and restores beside clients that create heroes."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from hero_api.settings import PREFIX
from tests.servers import ROOT, Server, serving

from .ledger import Hero, integrity, stored_heroes
from .scans import fill
from .wire import Connection

CLIENTS = 16
_BETWEEN = 200  # answers of the load, at least, before and after each command
# On a SQLite that can corrupt a file that two processes write, a restore refuses to be the second.
# What it does on others is shown on any: the fault needs two checkpoints in the same instant.
_UNGUARDED = """
import hero_api.database.sqlite.engine as engine
engine.has_wal_reset_fault = lambda: False
import hero_api.cli
hero_api.cli.main()
"""


@dataclass
class Round:
    """What one backup and its restore have shown."""

    backup_seconds: float = 0.0
    restore_seconds: float = 0.0
    creates: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


class Creates:
    """Clients that create heroes and read them again; `acknowledged` is what they were told."""

    def __init__(self) -> None:
        self.acknowledged: dict[int, Hero] = {}
        self.given: set[int] = set()
        self.wrong: list[str] = []
        self.answers = 0
        self.refused = 0
        self.stopped = False
        self._progress = asyncio.Event()

    async def run(self, server: Server) -> None:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(server, number))

    async def go_on(self) -> None:
        """Wait for more answers."""
        enough = self.answers + _BETWEEN
        while self.answers < enough:
            self._progress.clear()
            await self._progress.wait()

    async def _client(self, server: Server, number: int) -> None:
        async with Connection(server.host, server.port) as connection:
            while not self.stopped:
                hero = Hero(f"hero {number} {self.answers}", number, "?" * 100)
                answer = await connection.request("POST", "/heroes/", hero._asdict())
                self.answers += 1
                self._progress.set()
                if answer.status != 200:
                    self.refused += 1
                    continue
                hero_id = answer.json()["id"]
                if hero_id in self.given:
                    self.wrong.append(f"the id {hero_id} was given twice")
                self.given.add(hero_id)
                self.acknowledged[hero_id] = hero
                answer = await connection.request("GET", f"/heroes/{hero_id}")
                if answer.status == 200 and answer.json() != {"id": hero_id, **hero._asdict()}:
                    self.wrong.append(f"hero {hero_id} is {answer.json()}, and was {hero}")


async def command(server: Server, *arguments: object) -> float:
    """Run a command on the server's file; return the seconds that it took."""
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _UNGUARDED,
        *map(str, arguments),
        cwd=ROOT,
        env=os.environ | {f"{PREFIX}DATABASE_URL": f"sqlite:///{server.file}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return time.monotonic() - begun


async def restore_under_load(directory: Path, rounds: int, heroes: int = 0) -> AsyncIterator[Round]:
    """Back up the file of one server under load, and restore it, again and again."""
    load = Creates()
    with serving(directory) as server:
        server.kill()
    fill(server.file, heroes)
    with serving(directory) as server:
        for number in range(rounds):
            seen = Round()
            load.stopped = False
            clients = asyncio.create_task(load.run(server))
            await load.go_on()
            before = dict(load.acknowledged)
            backup = directory / f"backup_{number}.db"
            seen.backup_seconds = await command(server, "backup", backup)
            await load.go_on()
            seen.restore_seconds = await command(server, "restore", backup)
            await load.go_on()
            load.stopped = True
            await clients
            stored, kept = stored_heroes(server.file), stored_heroes(backup)
            seen.wrong = [*load.wrong, *_wrong(load.acknowledged, before, kept, stored)]
            seen.wrong += [said for said in map(integrity, (server.file, backup)) if said != "ok"]
            seen.creates, seen.refused = len(load.given), load.refused
            load.acknowledged = stored
            yield seen


def _wrong(
    acknowledged: dict[int, Hero],
    before: dict[int, Hero],
    kept: dict[int, Hero],
    stored: dict[int, Hero],
) -> list[str]:
    """Compare what was acknowledged with what a backup has, and with what is stored after it."""
    last = max(kept)
    first_after = min(hero_id for hero_id in stored if hero_id > last)
    return [
        *(f"{each} is not in the backup" for each in before.items() - kept.items()),
        *(f"{each} was not restored" for each in kept.items() - stored.items()),
        *(
            f"{hero_id} was acknowledged after the restore, and is lost"
            for hero_id, hero in acknowledged.items()
            if hero_id >= first_after and stored.get(hero_id) != hero
        ),
    ]
