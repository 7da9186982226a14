"""SQLite: the engines of a file, and how their connections are set up."""

import asyncio
import logging
import os
import sqlite3
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import aiosqlite
from sqlalchemy import Connection, Table, event
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolResetState

from hero_api.database.keys import has_keys
from hero_api.database.schema import has_table, make_missing
from hero_api.database.sqlite.file import (
    beside,
    check_file,
    identity,
    open_read_write,
    unusable,
    uri,
)
from hero_api.database.urls import reason
from hero_api.errors import BrokenError, NoRoomError, ReplacedError, ServiceError, StartError
from hero_api.settings import Settings

LIMIT_LOCK_WAITS = CHECK_CONSTRAINTS = ""  # SQLite locks and checks as a whole
_OLDEST = (3, 35, 0)  # the first with RETURNING
_MOMENT = 1.0  # seconds, enough for a process that only looks into the file to close it
_LEAST_ROOM = 262_144  # bytes of the disk: a create writes several pages
_HEADER = """
    SELECT CAST(file AS BLOB), user_version, page_count < max_page_count OR freelist_count > 0
    FROM pragma_database_list, pragma_user_version, pragma_page_count, pragma_max_page_count,
         pragma_freelist_count
    WHERE name = 'main'
"""

logger = logging.getLogger("hero_api")


def has_wal_reset_fault(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Say whether two processes at work can corrupt a WAL database (sqlite.org/wal.html)."""
    return (3, 7, 0) <= version < (3, 51, 3) and not any(
        fixed <= version < (fixed[0], fixed[1] + 1) for fixed in ((3, 44, 6), (3, 50, 7))
    )


def check_alone(settings: Settings) -> None:
    """Refuse a SQLite file that another process has open, where SQLite can corrupt it then.

    For what writes beside the service. Raises `StartError`, one line; nothing is changed.
    """
    if settings.is_postgresql or not has_wal_reset_fault():
        return
    try:
        with closing(open_read_write(settings.path, _MOMENT)) as connection:
            # In WAL mode, every connection of another process has a lock, however idle it is.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        # Any other error the command meets by itself.
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise unusable(
                settings.path,
                "another process has it open, and two that write can damage it on SQLite "
                f"{sqlite3.sqlite_version} (3.51.3 is mended); stop the service first",
            ) from error


class SQLite:
    """The engines of one file: one connection that writes, and a few that refuse to."""

    def __init__(self, settings: Settings) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
        check_file(settings.path)
        self._path = settings.path
        # It opens the file, but never makes it.
        url = settings.url.set(database=uri(self._path), query={"mode": "rw", "uri": "true"})
        self._identity = identity(self._path)
        self._busy_timeout = settings.busy_timeout
        both: dict[str, Any] = {"max_overflow": 0, "pool_timeout": settings.request_timeout}
        self.writer = create_async_engine(url, pool_size=1, pool_reset_on_return=None, **both)
        self.reader = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=settings.read_connections,
            **both,
        )
        pragmas = [
            f"busy_timeout={int(settings.busy_timeout * 1000)}",
            f"synchronous={settings.synchronous}",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
            "temp_store=MEMORY",  # the root of a container may be read-only, without a /tmp
        ]
        self._set_up(self.writer, pragmas)
        self._set_up(self.reader, [*pragmas, "query_only=ON"])
        # They stay as long as the service: what is written into a deleted one is lost.
        self._own_files = [beside(self._path, suffix) for suffix in ("-wal", "-shm")]
        self._beside: Sequence[object] = ()
        self._guard: sqlite3.Connection | None = None
        for engine in (self.writer, self.reader):
            event.listen(engine.sync_engine, "do_connect", self._check_files)
        event.listen(self.writer.sync_engine, "begin", self._begin)
        event.listen(self.writer.sync_engine, "reset", self._reset)

    def _set_up(self, engine: AsyncEngine, pragmas: Sequence[str]) -> None:
        def connect(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
            entry.info["check"] = self._check_files
            # sqlite3's own transaction control would emit no BEGIN before a SELECT.
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        event.listen(engine.sync_engine, "connect", connect)

    async def prepare(self, tables: Sequence[Table]) -> None:
        """Make the tables that are not there; another schema is refused before any write.

        Raises `StartError`, one line, for a file that cannot be used; it is untouched.
        """
        try:
            await self._prepare(tables)
        except (SQLAlchemyError, sqlite3.Error, RuntimeError, StartError) as error:
            raise unusable(self._path, reason(error)) from error

    async def dispose(self) -> None:
        """Close every connection: the last one that can write checkpoints, and deletes the WAL."""
        guard, self._guard = self._guard, None
        if guard and self._has_own_log():
            guard.close()
        await self.reader.dispose()
        await self.writer.dispose()
        if guard:
            guard.close()

    async def close(self) -> None:
        """Checkpoint and close, so that no `-wal` file stays behind.

        It stays where another process holds the file, or a batch the connection. A file that was
        replaced still gets what belongs to it: SQLite has it open. A WAL that another process has
        begun in the place of a deleted one is left alone: a checkpoint would overwrite what that
        process has written.
        """
        try:
            if not self._has_own_log():
                logger.warning("%s has another WAL than this service's, which is left", self._path)
            elif not cast("AsyncAdaptedQueuePool", self.writer.pool).checkedout():
                await self._pragma("busy_timeout=0")
                await self._pragma("wal_checkpoint(TRUNCATE)")
        except (SQLAlchemyError, sqlite3.Error, ServiceError, OSError) as error:
            logger.warning("%s keeps its WAL until the next start: %r", self._path, error)
        finally:
            await self.dispose()

    async def _prepare(self, tables: Sequence[Table]) -> None:
        async with self.reader.connect() as connection:
            exist = [await connection.run_sync(has_table, table) for table in tables]
            exist.append(await connection.run_sync(has_keys))
        await self._use_wal()
        if not all(exist):
            async with self.writer.begin() as connection:
                await connection.run_sync(make_missing, tables)
        # What has connected before there was a WAL would not notice that it was deleted.
        await self.reader.dispose()
        # It can only read, and while it is open SQLite neither checkpoints nor deletes the WAL
        # when a connection closes.
        self._guard = sqlite3.connect(
            uri(self._path, "?mode=ro"), uri=True, check_same_thread=False
        )
        self._guard.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._beside = [*map(identity, self._own_files)]

    def _has_own_log(self) -> bool:
        """Say whether no other process has put a WAL, or its index, in the place of the writer's.

        One that was only deleted the writer still has open.
        """
        found = map(identity, self._own_files)
        return all(each in {None, own} for each, own in zip(found, self._beside, strict=False))

    def _check_files(self, *_: object) -> None:
        """Let no connection open, and no change begin, on another file or WAL than the writer's."""
        is_other = identity(self._path) != self._identity
        if is_other or (self._beside and self._beside != [*map(identity, self._own_files)]):
            raise ReplacedError

    def _begin(self, connection: Connection) -> None:
        # Straight to the driver: a cursor of SQLAlchemy's would take three turns of its thread.
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, AdaptedConnection)  # noqa: S101 - it is aiosqlite's
        try:
            driver.run_async(lambda driver: driver.execute_fetchall("BEGIN IMMEDIATE"))
        except ValueError as error:  # what aiosqlite raises when its connection was closed
            connection.invalidate(error)
            raise BrokenError from error
        except asyncio.CancelledError:
            connection.invalidate()  # or its transaction begins when it is the pool's again
            raise
        try:
            self._check_files()
        except ReplacedError:
            driver.run_async(lambda driver: driver.execute_fetchall("ROLLBACK"))
            raise

    def _reset(
        self, connection: DBAPIConnection, entry: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        """Take a connection back; the pool's own way is a turn of the driver's thread each time."""
        try:
            # Only a COMMIT that failed leaves a transaction open. What the garbage collector gives
            # back is closed.
            if state.asyncio_safe and connection.driver_connection.in_transaction:
                connection.rollback()
        except (ValueError, sqlite3.Error) as error:
            # The pool would replace it too, but with a traceback. What was closed stays closed.
            entry.invalidate(soft=isinstance(error, (ValueError, sqlite3.ProgrammingError)))

    async def _use_wal(self) -> None:
        # When several processes switch one file, SQLite fails at once instead of waiting.
        end = time.monotonic() + self._busy_timeout
        while True:
            try:
                mode = await self._pragma("journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > end:
                    raise StartError("another process has locked it") from error
                await asyncio.sleep(0.01)
            else:
                if mode != "wal":
                    raise StartError("it cannot be written in WAL mode")
                return

    async def _pragma(self, pragma: str) -> object:
        """Execute a pragma on the writing connection, outside of SQLAlchemy's transaction."""
        async with self.writer.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert isinstance(driver, aiosqlite.Connection)  # noqa: S101 - it was just connected
            return (await fetch(driver, f"PRAGMA {pragma}", {}))[0][0]


async def fetch(
    driver: aiosqlite.Connection, statement: str, parameters: Mapping[str, object]
) -> Sequence[Any]:
    """Execute a statement in one turn of the driver's thread, and return its rows."""
    try:
        return list(await driver.execute_fetchall(statement, parameters))
    except sqlite3.Error as error:
        # The traceback keeps the cursor, and so the statement and its snapshot, open.
        traceback.clear_frames(error.__traceback__)
        raise


def is_lost(driver: aiosqlite.Connection, _error: Exception) -> bool:
    """Say whether the connection that raised `error` is of no more use."""
    try:
        return driver.in_transaction is None
    except (ValueError, sqlite3.ProgrammingError):  # what a closed one raises, whatever it is asked
        return True


def survives(driver: aiosqlite.Connection, error: Exception) -> bool:
    """Say whether the transaction outlived `error`: RAISE(ROLLBACK), for one, ends it."""
    # What follows a damaged page in its transaction fails too.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return driver.in_transaction and code != sqlite3.SQLITE_CORRUPT


async def probe(execute: Callable[..., Awaitable[Sequence[Any]]]) -> ServiceError | None:
    """Write a page of the file, as it was; return what a create would be told without room."""
    [(file, version, has_room)] = await execute(_HEADER, {})
    disk = os.statvfs(file)
    if not has_room or disk.f_bavail * disk.f_frsize < _LEAST_ROOM:
        return NoRoomError()
    # It writes the first page, whatever the version was.
    await execute(f"PRAGMA user_version = {version}", {})
    return None
