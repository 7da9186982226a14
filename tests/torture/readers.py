"""A reader that stays in a transaction while heroes are created, and what it makes of the WAL."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tests.servers import serving

from .wire import Connection

CLIENTS = 32
BOUND = 64.0  # megabytes (MiB): the service's journal_size_limit
PATIENCE = 60.0  # seconds that the WAL may take to shrink
_HERO = {"name": "Deadpond", "secret_name": "?" * 5_000}


class Held(NamedTuple):
    """What a reader made of the WAL, in megabytes, and how many heroes were created."""

    peak: float
    after: float
    creates: int


async def hold(directory: Path, seconds: float) -> Held:
    """Read in one transaction for so long, beside creates; return what the WAL came to.

    `after` is its size when creates have gone on without the reader until it is within the bound,
    or for as long as that may take.
    """
    with serving(directory) as server:
        wal = server.file.with_name(f"{server.file.name}-wal")
        peak, creates = 0.0, 0
        is_read, end = True, 0.0

        def size() -> float:
            return wal.stat().st_size / 2**20

        async def create() -> None:
            nonlocal creates, peak
            async with Connection(server.host, server.port) as client:
                while is_read or (size() > BOUND and time.monotonic() < end):
                    answer = await client.request("POST", "/heroes/", _HERO)
                    assert answer.status == 200
                    peak, creates = max(peak, size()), creates + 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(create())
            with closing(sqlite3.connect(server.file, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                before = _count(reader)
                await asyncio.sleep(seconds)
                assert _count(reader) == before < creates
            is_read, end = False, time.monotonic() + PATIENCE
        return Held(peak, size(), creates)


def _count(reader: sqlite3.Connection) -> int:
    [count] = reader.execute("SELECT count(*) FROM hero").fetchone()
    return int(count)
