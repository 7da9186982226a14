"""For integration tests: an application with its lifespan running, or a server of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.database.sessions import Database
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.settings import PREFIX

_STOPPED_WITHIN = 60.0  # seconds


@asynccontextmanager
async def running(
    app: FastAPI, *, raise_app_exceptions: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """Run the lifespan of `app` (httpx alone does not), and yield a client on it.

    What a handler raises reaches the test; without `raise_app_exceptions` the client gets its 500.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client,
    ):
        yield client


@asynccontextmanager
async def rolled_back(app: FastAPI) -> AsyncIterator[AsyncSession]:
    """Let the handlers of `app`, which is running, work on one session, and undo its work.

    What is committed on it, by a handler or by the test, is a savepoint of one transaction.
    """
    database: Database = app.state.database
    async with database.writer.connect() as connection, connection.begin() as transaction:
        session = AsyncSession(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        )
        before = {**app.dependency_overrides}
        for dependency in (get_read_session, get_write_session):
            app.dependency_overrides[dependency] = lambda: session
        try:
            yield session
        finally:
            app.dependency_overrides = before
            await session.close()
            await transaction.rollback()


@contextmanager
def serving(settings: Mapping[str, object]) -> Iterator[str]:
    """Run `hero-api serve` on a free port, and yield its URL.

    `settings` are named as the fields of `Settings`; those of the environment do not count.
    """
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    environment |= {
        PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
        for name, value in settings.items()
        if value is not None
    }
    with subprocess.Popen(
        [sys.executable, "-m", "hero_api", "serve", "--port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            # Where it cannot start, it has said why on standard error.
            address = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if address is None:
                raise RuntimeError("The server did not start")
            yield address[0]
        finally:
            process.terminate()
            try:
                process.wait(_STOPPED_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
