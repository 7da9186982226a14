"""PostgreSQL: its engines, and how their connections are set up. The driver is an extra."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    URL,
    Connection,
    Table,
    cast,
    event,
    false,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from hero_api.database.keys import has_keys
from hero_api.database.pages import MAX_CHOSEN_ID
from hero_api.database.postgresql.statements import LOCK, PATIENCE
from hero_api.database.postgresql.watchdog import ConnectionWatchdog
from hero_api.database.schema import has_table, make_missing
from hero_api.database.urls import reason, shown
from hero_api.database.verdicts import describe
from hero_api.errors import StartError
from hero_api.settings import Settings

if TYPE_CHECKING:
    import psycopg

_PATIENCE = 50  # milliseconds that a batch waits for what one of its items needs
LOCKED_ROWS = 16  # that are waited for at a time, each on a connection of its own
# Unless the URL says otherwise: a host that is gone without a word is noticed within seconds.
DEFAULTS = {
    "application_name": "hero-api",
    "connect_timeout": "2",  # for each host: one that is frozen takes a connection and is silent
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_START = 30.0  # seconds that the preparations have: they are many statements, and may wait
_MARGIN = 0.5  # seconds that the server has to end a statement itself when its time is over
_READ_ONLY = "25006"  # the SQLSTATE of a write to a standby
_OLD_PLAN = "0A000"  # and that of a prepared statement whose table was altered
LIMIT_LOCK_WAITS = f"SET LOCAL lock_timeout = '200ms'; SET LOCAL {PATIENCE} = '5'"
CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"
_LOCK = text(f"SELECT pg_advisory_xact_lock({LOCK})")
_ID = text("""
    SELECT attidentity = 'a' AS is_always, pg_get_serial_sequence(:table, 'id') AS sequence,
           has_sequence_privilege(pg_get_serial_sequence(:table, 'id'), 'UPDATE') AS may_set,
           has_sequence_privilege(pg_get_serial_sequence(:table, 'id'), 'USAGE, SELECT')
               AS may_look,
           (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = attrelid) AS is_table,
           EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid
                   AND indimmediate AND indpred IS NULL AND indnkeyatts = 1
                   AND indkey[0] = attnum) AS is_unique
    FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) AND attname = 'id'
""")

logger = logging.getLogger("hero_api")


class PostgreSQL:
    """The engines of a PostgreSQL database: one that writes, and one that refuses to.

    Raises `StartError` where the driver is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.url
        parameters: dict[str, object] = {
            "lock_timeout": int(settings.busy_timeout * 1000) or 1,
            "statement_timeout": int(settings.request_timeout * 1000) or 1,
            "idle_in_transaction_session_timeout": int(settings.request_timeout * 1000) or 1,
            # It compiles the statement of several pages for longer than that takes.
            "jit": "off",
            PATIENCE: _PATIENCE,
        }
        self.writer = _create_engine(
            settings.url,
            settings,
            # What writes looks rows up. A plan that was made while a table was small, and is kept,
            # would go on to read all of it.
            parameters | {"enable_seqscan": "off"},
            pool_size=1 + LOCKED_ROWS,
        )
        self.reader = _create_engine(
            settings.read_url,
            settings,
            parameters | {"default_transaction_read_only": "on"},
            pool_size=settings.read_connections,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
        )
        self._patience = settings.request_timeout + _MARGIN
        self._watches = [
            ConnectionWatchdog(engine, max(_START, self._patience))
            for engine in (self.writer, self.reader)
        ]

    async def prepare(self, tables: Sequence[Table]) -> None:
        """Make the tables that are not there, once, however many processes start together.

        Raises `StartError`, one line, for a database that cannot be used; it is untouched.
        """
        try:
            async with self.writer.begin() as connection:
                await connection.run_sync(_prepare, tables)
        except (SQLAlchemyError, RuntimeError, UnicodeError, StartError) as error:
            raise StartError(
                f"The database {shown(self._url)} cannot be used: {reason(error)}"
            ) from error
        for watch in self._watches:
            watch.patience = self._patience

    async def dispose(self) -> None:
        """Close every connection that is not in use."""
        await self.reader.dispose()
        await self.writer.dispose()

    async def close(self) -> None:
        """Close every connection, whatever waits for it."""
        await asyncio.gather(*(watch.close() for watch in self._watches))
        await self.dispose()


async def fetch(
    driver: "psycopg.AsyncConnection[Any]", statement: str, parameters: Mapping[str, object]
) -> Sequence[Any]:
    """Execute a statement, and return its rows; every parameter is sent as text."""
    values = {name: str(value) for name, value in parameters.items()} or None
    try:
        cursor = await driver.execute(statement, values)
    except Exception as error:
        if getattr(error, "sqlstate", None) != _OLD_PLAN or not driver.autocommit:
            raise
        # The table was altered. On ROLLBACK the driver forgets what it has prepared; within a
        # transaction that is the batch's.
        await driver.execute("ROLLBACK")
        cursor = await driver.execute(statement, values)
    # `description` would say the same, but it makes an object of each column.
    return [] if cursor.rownumber is None else await cursor.fetchall()


def driver_is_missing(error: ImportError) -> StartError:
    """Return the error that says how to install the driver."""
    return StartError(f"PostgreSQL needs its driver ({error}): pip install 'hero-api[postgresql]'")


def is_lost(driver: "psycopg.AsyncConnection[Any]", error: Exception) -> bool:
    """Say whether the connection that raised `error` is of no more use."""
    # A server that refuses to write was demoted: the next connection looks for the primary.
    return driver.closed or getattr(error, "sqlstate", None) == _READ_ONLY


def survives(_driver: "psycopg.AsyncConnection[Any]", error: Exception) -> bool:
    """Say whether the transaction can go on from a savepoint."""
    return not (getattr(error, "sqlstate", None) or "").startswith("40")


async def probe(_execute: Callable[..., Awaitable[Sequence[Any]]]) -> None:
    """Do nothing: a server that only reads refuses an INSERT of no rows too."""


def _create_engine(
    url: URL,
    settings: Settings,
    parameters: Mapping[str, object],
    **options: Any,  # noqa: ANN401
) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url.set(query={**DEFAULTS, **url.query, "client_encoding": "utf8"}),
            max_overflow=0,
            pool_timeout=settings.request_timeout,
            use_native_hstore=False,  # it would be one more query for each connection
            **options,
        )
    except ImportError as error:
        raise driver_is_missing(error) from error
    statements = [f"SET {name} = {value}" for name, value in parameters.items()]

    def connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # Not as start-up options: a pooler between would refuse them.
        cursor = connection.cursor()
        cursor.execute("; ".join(statements))
        cursor.close()
        connection.commit()

    event.listen(engine.sync_engine, "connect", connect)
    return engine


def _prepare(connection: Connection, tables: Sequence[Table]) -> None:
    # A request's own bound is too short for all that follows, on a machine that is busy.
    connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_START}s'"))
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise StartError(f"its encoding is {encoding}; create it with ENCODING 'UTF8'")
    exist = [has_table(connection, table) for table in tables]  # each is looked at
    if not (all(exist) and has_keys(connection)):
        # Of several processes that start together, one makes the tables, and the others wait.
        connection.execute(_LOCK)
        make_missing(connection, tables)
    for table in tables:
        _check_id(connection, table)


def _check_id(connection: Connection, table: Table) -> None:
    """Refuse ids that the service cannot draw or choose; let the sequence catch up with them."""
    name = connection.dialect.identifier_preparer.format_table(table)
    found = connection.execute(_ID, {"table": name}).one()
    if not found.is_table:
        raise StartError(f"its {table.name} is no table; make one, and copy the rows into it")
    if not found.is_unique:
        raise StartError(f"its table {table.name} has no primary key (id); make one")
    if found.sequence is None:
        raise StartError(
            f"its table {table.name} has no sequence of its own; make its id a bigserial, or let "
            f"the table own the one that it has: ALTER SEQUENCE ... OWNED BY {name}.id"
        )
    if found.is_always:
        raise StartError(
            f"its table {table.name} lets nobody choose an id; "
            f"ALTER TABLE {name} ALTER COLUMN id SET GENERATED BY DEFAULT"
        )
    # Rows that somebody copied in may have left the sequence behind.
    # The id may be an INTEGER, which a parameter of its type would have to fit.
    chosen = table.c.id.between(literal_column("1"), literal_column(str(MAX_CHOSEN_ID)))
    last = func.max(table.c.id)
    drawn = func.pg_sequence_last_value(cast(found.sequence, REGCLASS))
    is_behind = found.may_look and connection.scalar(
        select(last >= func.coalesce(drawn + 1, 1)).where(chosen)
    )
    if not found.may_set:
        logger.warning(
            "This role may not set the sequence %s%s: ids that clients choose are refused. "
            "GRANT UPDATE ON SEQUENCE lets it",
            found.sequence,
            ", which is behind the ids of the table" if is_behind else "",
        )
    elif is_behind:
        connection.execute(_LOCK)
        following = func.greatest(func.nextval(found.sequence), last + 1)
        try:
            with connection.begin_nested():
                connection.execute(
                    select(func.setval(found.sequence, following, false())).where(chosen)
                )
        except DBAPIError as error:
            logger.warning("The sequence %s cannot go on: %s", found.sequence, describe(error))
