"""Another program that writes, vacuums and checkpoints the file of a service, at random."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

_HERO = {"name": "Deadpond", "secret_name": "?" * 5_000}
_STATEMENTS = (
    "INSERT INTO hero (name, secret_name) VALUES ('Other', hex(zeroblob(100000)))",
    "UPDATE hero SET age = abs(random() % 100)",
    "DELETE FROM hero WHERE id % 7 = 0",
    "VACUUM",
    *(f"PRAGMA wal_checkpoint({mode})" for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE")),
)


async def meddle(file: Path, chance: random.Random, rounds: int) -> AsyncIterator[list[int]]:
    """Use the file of a service beside it; yield the statuses of each round's requests."""
    async with running(create_app(Settings(database_url=f"sqlite:///{file}"))) as client:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            for _ in range(rounds):
                for statement in chance.choices(_STATEMENTS, k=chance.randrange(4)):
                    other.execute(statement).fetchall()
                if chance.random() < 0.2:
                    file.touch()  # noqa: ASYNC240 - others are to wait for it
                answers = [await client.get("/readyz")]
                if chance.random() < 0.7:
                    creates = range(chance.choice([1, 1, 9]))
                    posts = (client.post("/heroes/", json=_HERO) for _ in creates)
                    answers += await asyncio.gather(*posts)
                yield [answer.status_code for answer in answers]
