"""The database: its sessions, over the engines of SQLite or of PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hero_api.database.keys import KEEPING, Keeping
from hero_api.database.postgresql import engine as postgresql
from hero_api.database.sqlite import engine as sqlite
from hero_api.database.verdicts import judge
from hero_api.errors import BrokenError, ServiceError, UnavailableError
from hero_api.settings import Settings

# Under this key sessions of one application share the statements for its tables.
STATEMENTS = "hero_api.statements"
# Under this one the scope of a request has the sessions that its handler uses as the ORM's.
OPENED = "hero_api.opened"
_MODULES: dict[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}
Engines = sqlite.SQLite | postgresql.PostgreSQL


class ReadOnlySession(AsyncSession):
    """A session that reads, in autocommit, on a connection that refuses to write.

    The ORM's session is made on first use: most of them only carry a call to its batch, and to make
    each would take a tenth of a get. The scope of the `request` has it then, to be closed.
    """

    def __init__(
        self, database: "Database", request: MutableMapping[str, Any] | None = None
    ) -> None:
        self.database = database
        self._request = request

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever AsyncSession has
        """Return what `AsyncSession` sets when it is made."""
        if "database" not in vars(self) or "sync_session" in vars(self):
            raise AttributeError(name)
        super().__init__(self._engine, info=self.database.info)
        if self._request is not None:
            self._request.setdefault(OPENED, []).append(self)
        return getattr(self, name)

    def in_transaction(self) -> bool:
        """Say whether its user has begun something; this makes no session of the ORM."""
        return "sync_session" in vars(self) and super().in_transaction()

    @property
    def _engine(self) -> AsyncEngine:
        return self.database.reader


class ReadWriteSession(ReadOnlySession):
    """A session that writes; on SQLite it has the database's one writing connection."""

    is_optimistic = False  # it has a batch that runs for the first time, and again if that fails

    @property
    def _engine(self) -> AsyncEngine:
        return self.database.writer

    async def begin_part(self) -> None:
        """Begin a part of the transaction that can be undone by itself; there is one at a time."""
        await fetch(self, "SAVEPOINT part", {})

    async def end_part(self) -> None:
        """Keep what the part has done."""
        await fetch(self, "RELEASE part", {})

    async def undo_part(self, error: Exception) -> bool:
        """Undo the part that `error` was raised in; return False where the transaction is over."""
        driver = (await connect(self)).connection.driver_connection
        if not _module(self).survives(driver, error):
            return False
        await fetch(self, "ROLLBACK TO part", {})
        await self.end_part()
        return True

    async def limit_lock_waits(self) -> None:
        """Wait only briefly for locks, until the transaction ends."""
        if statement := _module(self).LIMIT_LOCK_WAITS:
            await fetch(self, statement, {})

    @property
    def can_check(self) -> bool:
        """Whether `check_constraints` finds what COMMIT would refuse."""
        return bool(_module(self).CHECK_CONSTRAINTS)

    async def probe(self) -> ServiceError | None:
        """Write without changing anything; return what a create without room would be told."""
        error: ServiceError | None = await _module(self).probe(partial(fetch, self))
        return error


class Database:
    """The engines of one application. `info` is what each session brings along."""

    def __init__(self, engines: Engines, info: Mapping[str, Any]) -> None:
        self.reader = engines.reader
        self.writer = engines.writer
        self.info = {**info, STATEMENTS: {}}

    def read_session(self, request: MutableMapping[str, Any] | None = None) -> ReadOnlySession:
        """Construct a session that reads; nothing is opened until the ORM uses it."""
        return ReadOnlySession(self, request)

    def write_session(self, request: MutableMapping[str, Any] | None = None) -> ReadWriteSession:
        """Construct a session that writes; nothing is opened until the ORM uses it."""
        return ReadWriteSession(self, request)


def make_engines(settings: Settings) -> Engines:
    """Return the engines of a database; none of them has connected yet."""
    return postgresql.PostgreSQL(settings) if settings.is_postgresql else sqlite.SQLite(settings)


@asynccontextmanager
async def open_database(
    settings: Settings, info: Mapping[str, Any], tables: Sequence[Table]
) -> AsyncIterator[Database]:
    """Open the database, make the tables that are not there, and close it at the end.

    Raises `StartError`, one line, for a database that cannot be used; it is untouched.
    """
    engines = make_engines(settings)
    try:
        await engines.prepare(tables)
    except BaseException:
        await engines.dispose()
        raise
    try:
        yield Database(engines, {**info, KEEPING: Keeping(settings.idempotency_hours * 3600)})
    finally:
        await engines.close()


async def connect(session: AsyncSession) -> Connection:
    """Return the session's connection; open it, and begin the transaction, if need be.

    Raises `UnavailableError`.
    """
    try:
        connection = (await session.connection()).sync_connection
    except UnavailableError:
        raise
    except Exception as error:
        told = judge(error).told
        raise (told if isinstance(told, UnavailableError) else BrokenError()) from error
    assert connection is not None  # noqa: S101 - it is open
    return connection


async def fetch(
    session: AsyncSession, statement: str, parameters: Mapping[str, object]
) -> Sequence[Any]:
    """Execute a statement, and return its rows.

    It goes straight to the driver: SQLAlchemy's cursors, in which aiosqlite's thread takes four
    turns, cost more than the statement. Raises `BrokenError` where the connection is lost.
    """
    connection = await connect(session)
    driver = connection.connection.driver_connection
    module = _MODULES[connection.dialect.name]
    try:
        rows: Sequence[Any] = await module.fetch(driver, statement, parameters)
    except Exception as error:
        if module.is_lost(driver, error):
            await session.invalidate()
            raise BrokenError from error
        # What it says may come from another file than the one that was opened.
        check = connection.info.get("check")
        if check is not None:
            check()
        raise
    return rows


async def check_constraints(session: AsyncSession) -> None:
    """Raise what COMMIT would say of deferred constraints, where the engine can tell."""
    if statement := _module(session).CHECK_CONSTRAINTS:
        await fetch(session, statement, {})


def _module(session: AsyncSession) -> Any:  # noqa: ANN401 - sqlite or postgresql
    return _MODULES[session.get_bind().dialect.name]
