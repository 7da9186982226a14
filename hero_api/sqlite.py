"""SQLite: the file that it keeps the heroes in, and how its connections are set up."""

import asyncio
import os
import sqlite3
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import URL, Connection, event, inspect
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from hero_api.errors import BrokenError, ReplacedError, StartError
from hero_api.models import Hero
from hero_api.settings import Settings

_OLDEST = (3, 35, 0)  # the first with RETURNING
_HEADER_FIELDS = ((16, 18), (24, 28), (28, 32), (92, 96))
_COLUMNS = {"id", "name", "age", "secret_name"}


class SQLite:
    """The engines of one file: one connection that writes, and a few that refuse to."""

    def __init__(self, settings: Settings) -> None:
        _check_file(settings.path)
        url = _existing_file(settings.url)
        self._path = settings.path
        self._identity = _identity(self._path)
        self._busy_timeout = settings.busy_timeout
        self.writer = create_async_engine(
            url, pool_size=1, max_overflow=0, pool_timeout=settings.request_timeout
        )
        self.reader = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=settings.read_connections,
            max_overflow=0,
            pool_timeout=settings.request_timeout,
        )
        pragmas = [
            f"busy_timeout={int(settings.busy_timeout * 1000)}",
            f"synchronous={settings.synchronous}",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
        ]
        _set_on_connect(self.writer, pragmas)
        _set_on_connect(self.reader, [*pragmas, "query_only=ON"])
        event.listen(self.writer.sync_engine, "begin", self._begin)

    async def prepare(self) -> None:
        """Make the table where there is none; another schema is refused before any write.

        Raises `StartError`, one line, for a file that cannot be used; it is untouched.
        """
        try:
            await self._prepare()
        except (DBAPIError, StartError, TimeoutError) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = str(cause) or "another process has locked it"
            raise _unusable(self._path, reason) from error

    async def dispose(self) -> None:
        """Close every connection, the writing one last: the last one out checkpoints."""
        await self.reader.dispose()
        await self.writer.dispose()

    async def close(self) -> None:
        """Checkpoint and close, so that no `-wal` file stays behind."""
        try:
            await self._pragma("wal_checkpoint(TRUNCATE)")
        finally:
            await self.dispose()

    async def _prepare(self) -> None:
        async with self.reader.connect() as connection:
            columns = await connection.run_sync(_hero_columns)
        if columns and not columns >= _COLUMNS:
            message = f"it has a table hero with other columns ({', '.join(sorted(columns))})"
            raise StartError(message)
        await self._use_wal()
        if not columns:
            async with self.writer.begin() as connection:
                table = Hero.metadata.tables["hero"]
                await connection.run_sync(Hero.metadata.create_all, tables=[table])

    def _begin(self, connection: Connection) -> None:
        if _identity(self._path) != self._identity:
            raise ReplacedError
        # Straight to the driver: a cursor of SQLAlchemy's would take three turns of its thread.
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, AdaptedConnection)  # noqa: S101 - it is aiosqlite's
        driver.run_async(lambda driver: driver.execute_fetchall("BEGIN IMMEDIATE"))

    async def _use_wal(self) -> None:
        # When several processes switch one file, SQLite fails at once instead of waiting.
        async with asyncio.timeout(self._busy_timeout):
            while True:
                try:
                    return await self._pragma("journal_mode=WAL")
                except OperationalError as error:
                    if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                        raise
                    await asyncio.sleep(0.01)

    async def _pragma(self, pragma: str) -> None:
        async with self.writer.connect() as connection:
            # Past SQLAlchemy's transaction: these two pragmas cannot run inside one.
            raw = await connection.get_raw_connection()
            driver_connection = raw.driver_connection
            assert driver_connection is not None  # noqa: S101 - it was just connected
            await driver_connection.execute_fetchall(f"PRAGMA {pragma}")


async def fetch(
    driver: aiosqlite.Connection, statement: str, parameters: Mapping[str, object]
) -> Sequence[Any]:
    """Execute a statement in one turn of the driver's thread, and return its rows."""
    try:
        return list(await driver.execute_fetchall(statement, parameters))
    except ValueError as error:  # what aiosqlite raises when its connection was closed
        raise BrokenError from error


def is_lost(_driver: aiosqlite.Connection, error: Exception) -> bool:
    """Say whether the connection that raised `error` is of no more use."""
    return isinstance(error, BrokenError)


def has_wal_reset_fault(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Say whether two processes at work can corrupt a WAL database (sqlite.org/wal.html)."""
    return (3, 7, 0) <= version < (3, 51, 3) and not any(
        fixed <= version < (fixed[0], fixed[1] + 1) for fixed in ((3, 44, 6), (3, 50, 7))
    )


def _unusable(path: Path, reason: str) -> StartError:
    return StartError(f"The database {path} cannot be used: {reason}")


def _check_file(path: Path) -> None:
    """See that SQLite can work with the file, before SQLite could touch it; make an empty one."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
    directory = path.absolute().parent
    if not directory.is_dir():
        raise _unusable(path, f"there is no directory {directory}; make it first")
    if path.is_dir():
        raise _unusable(path, "it is a directory; name a file")
    if not os.access(directory, os.W_OK):
        raise _unusable(path, f"the directory {directory} cannot be written")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise _unusable(path, "the file cannot be read and written")
    if path.exists():
        _check_header(path)
    else:
        # An empty file is an empty database; connections never make one.
        path.touch()


def _check_header(path: Path) -> None:
    """Refuse what is no SQLite file, or lacks its end (https://sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        header = file.read(100)
    size = path.stat().st_size
    if size == 0:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):  # noqa: PLR2004
        raise _unusable(path, "it is not a SQLite database")
    page_size, changes, pages, valid_for = (
        int.from_bytes(header[start:end], "big") for start, end in _HEADER_FIELDS
    )
    page_size = 65536 if page_size == 1 else page_size
    wal = path.with_name(f"{path.name}-wal")
    # Where there is a WAL, the end of the file may still be in it.
    complete = changes != valid_for or size >= page_size * pages
    if not complete and not (wal.exists() and wal.stat().st_size):
        raise _unusable(path, "the file lacks its end; restore a backup")


def _existing_file(url: URL) -> URL:
    """Return a URL that opens the file but never makes it."""
    path = urllib.parse.quote(str(Path(url.database or "").absolute()))
    return url.set(database=f"file:{path}", query={**url.query, "mode": "rw", "uri": "true"})


def _hero_columns(connection: Connection) -> set[str]:
    inspector = inspect(connection)
    if not inspector.has_table("hero"):
        return set()
    return {column["name"] for column in inspector.get_columns("hero")}


def _set_on_connect(engine: AsyncEngine, pragmas: Sequence[str]) -> None:
    def connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # sqlite3's own transaction control emits no BEGIN before a SELECT: none, then, but ours.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", connect)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that was put in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
