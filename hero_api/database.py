"""The database: its sessions, over the engines of SQLite or of PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hero_api import postgresql, sqlite
from hero_api.errors import NoRoomError
from hero_api.settings import Settings

_MODULES: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}
_HEADER = """
    SELECT user_version, page_count < max_page_count OR freelist_count > 0
    FROM pragma_user_version, pragma_page_count, pragma_max_page_count, pragma_freelist_count
"""


class ReadOnlySession(AsyncSession):
    """A session that reads, in autocommit, on a connection that refuses to write."""


class ReadWriteSession(ReadOnlySession):
    """A session that writes; on SQLite it has the database's one writing connection."""


class Engines(Protocol):
    """What an engine's module brings: where to write, where to read, and their beginning and end.

    `prepare` makes the table where there is none, and raises `StartError` for a database that
    cannot be used.
    """

    writer: AsyncEngine
    reader: AsyncEngine

    async def prepare(self) -> None: ...  # noqa: D102 - said above
    async def dispose(self) -> None: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Database:
    """The engines of one application. `info` is what each session brings along."""

    def __init__(self, engines: Engines, info: Mapping[str, Any]) -> None:
        self._reader = engines.reader
        self._writer = engines.writer
        self._info = dict(info)

    def read_session(self) -> ReadOnlySession:
        """Construct a session that reads; nothing is opened until a batch runs on it."""
        return ReadOnlySession(self._reader, info=self._info)

    def write_session(self) -> ReadWriteSession:
        """Construct a session that writes; nothing is opened until a batch runs on it."""
        return ReadWriteSession(self._writer, info=self._info)


@asynccontextmanager
async def open_database(settings: Settings, info: Mapping[str, Any]) -> AsyncIterator[Database]:
    """Open the database, make its table where there is none, and close it at the end.

    Raises `StartError`, one line, for a database that cannot be used; it is untouched.
    """
    engines: Engines = (
        postgresql.PostgreSQL(settings) if settings.is_postgresql else sqlite.SQLite(settings)
    )
    try:
        await engines.prepare()
    except BaseException:
        await engines.dispose()
        raise
    try:
        yield Database(engines, info)
    finally:
        await engines.close()


async def ping(session: AsyncSession, items: Sequence[None]) -> Sequence[None]:
    """Ask the database for an answer: a batch function."""
    await fetch(session, "SELECT 1", {})
    return items


async def ping_write(session: AsyncSession, items: Sequence[None]) -> Sequence[None]:
    """Write to the database, and change nothing that it holds: a batch function.

    Raises what a create would be told, `NoRoomError` for example.
    """
    if session.get_bind().dialect.name == "sqlite":
        [(version, has_room)] = await fetch(session, _HEADER, {})
        if not has_room:
            raise NoRoomError
        # It writes the file's first page, whatever the version was. No table need be there.
        await fetch(session, f"PRAGMA user_version = {version}", {})
    else:
        # A server that is read-only refuses it, and no trigger sees it.
        await fetch(session, "SELECT id FROM hero WHERE false FOR UPDATE", {})
    return items


async def fetch(
    session: AsyncSession, statement: str, parameters: Mapping[str, object]
) -> Sequence[Any]:
    """Execute a statement, and return its rows.

    It goes straight to the driver: SQLAlchemy's cursors, in which aiosqlite's thread takes four
    turns, cost more than the statement.
    """
    connection = (await session.connection()).sync_connection
    assert connection is not None  # noqa: S101 - it is open
    driver = connection.connection.driver_connection
    module = _MODULES[connection.dialect.name]
    try:
        rows: Sequence[Any] = await module.fetch(driver, statement, parameters)
    except Exception as error:
        if module.is_lost(driver, error):
            await session.invalidate()
        raise
    return rows
