"""A program that ends an application whose writer is frozen, thaws it, and ends."""

import asyncio
import sqlite3
import sys
from contextlib import AsyncExitStack

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

from .faults import Faults

DEADLINE = 0.3  # seconds
PATIENCE = DEADLINE * 10
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


async def _end_while_frozen(url: str, step: str, faults: Faults) -> None:
    app = create_app(Settings(database_url=url, request_timeout=DEADLINE))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(running(app))
        ending = stack.pop_all()
    with faults.freeze(step):
        assert (await client.post("/heroes/", json=HERO)).status_code == 503
        task = asyncio.create_task(ending.aclose())
        ended, _ = await asyncio.wait({task}, timeout=PATIENCE)
        assert ended, "it does not end"
        assert task.exception() is None, task.exception()


def main() -> None:
    """Freeze the writer of the database of the first argument at the step of the second."""
    faults = Faults()
    sqlite3.connect = faults.connect  # type: ignore[assignment]
    asyncio.run(_end_while_frozen(sys.argv[1], sys.argv[2], faults))


if __name__ == "__main__":
    main()
