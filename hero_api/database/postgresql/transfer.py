"""An endpoint of a transfer that is a PostgreSQL database. The driver is an extra."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import SQLAlchemyError

from hero_api.database.keys import KEYS
from hero_api.database.pages import MAX_CHOSEN_ID, MAX_ID, MIN_ID
from hero_api.database.postgresql.engine import DEFAULTS, driver_is_missing
from hero_api.database.schema import check_columns
from hero_api.database.transfer import Row, columns_in_order, in_order
from hero_api.database.urls import reason
from hero_api.errors import StartError
from hero_api.settings import Settings

if TYPE_CHECKING:
    import psycopg

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_SEQUENCE = "SELECT pg_get_serial_sequence(%s, 'id')"
# A server, one of its databases, and one of the tables there.
_IDENTITY = """
    SELECT pg_postmaster_start_time(), to_regclass(%s)::oid, oid
    FROM pg_database WHERE datname = current_database()
"""
_COLUMNS = """
    SELECT array_agg(attname::text) FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""
_PAGE = 400  # rows that the server sends at a time
# The key of the lock that a copy holds on its target: "copy" in ASCII. One that was killed may
# still be storing its last chunk there.
_LOCK = 0x636F7079
_WAIT = 10  # seconds for that


class PostgreSQLEndpoint:
    """The rows of a table in a PostgreSQL database."""

    takes_nul = False

    def __init__(self, settings: Settings, table: Table, *, writes: bool) -> None:
        self._table = table
        quote = _DIALECT.identifier_preparer
        self._quoted = quote.format_table(table)
        self._columns = ", ".join(map(quote.format_column, columns_in_order(table)))
        self._select = str(in_order(table).compile(dialect=_DIALECT))
        self.name = settings.database_name
        dialect = settings.url.get_dialect()
        try:
            self._psycopg: Any = dialect.import_dbapi()
        except ImportError as error:
            raise driver_is_missing(error) from error
        with self._translate_errors():
            _, options = dialect().create_connect_args(settings.url)
            self._connection: psycopg.Connection[Any] = self._psycopg.connect(
                **{**DEFAULTS, **options, "client_encoding": "utf8"}, autocommit=writes
            )
            try:
                self._begin(writes=writes)
                self.identity: object = self._row(_IDENTITY, self._quoted)
            except BaseException:
                self.close()
                raise

    def has_table(self) -> bool:
        [names] = self._row(_COLUMNS, self._quoted)
        if names:
            check_columns(self._table, names, f"{self.name}: ")
        return bool(names)

    def count(self) -> int:
        return int(self._row(f"SELECT count(*) FROM {self._quoted}")[0])

    def last_id(self) -> int | None:
        last: int | None = self._row(f"SELECT max(id) FROM {self._quoted}")[0]
        return last

    def last_drawn(self) -> int:
        # The server has quoted the name.
        sequence = self._row(_SEQUENCE, self._quoted)[0]
        if sequence is None:
            return 0
        return int(self._row(f"SELECT last_value - (NOT is_called)::int FROM {sequence}")[0])

    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]:
        with self._translate_errors(), self._connection.cursor(name="rows") as cursor:
            cursor.execute(self._select, {"first": first, "last": last})
            while page := cursor.fetchmany(_PAGE):
                yield from page

    def write(self, chunk: Sequence[Row], *, clears: bool = False) -> None:
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                if clears:
                    self._clear()
                with cursor.copy(f"COPY {self._quoted} ({self._columns}) FROM STDIN") as copy:
                    for row in chunk:
                        copy.write_row(row)
        except self._psycopg.Error as error:
            # The server says in which line of what it was sent.
            table = self._table.name
            # The word for a line is the server's language's.
            line = re.match(rf"COPY {re.escape(table)}\D*(\d+)", error.diag.context or "")
            which = f"cannot store {table} {chunk[int(line[1]) - 1][0]}: " if line else ""
            said = error.diag.message_primary or reason(error)
            raise StartError(f"{self.name} {which}{said}") from error

    def _clear(self) -> None:
        self._connection.execute(f"TRUNCATE {self._quoted}")
        if self._row("SELECT to_regclass(%s)", KEYS.name)[0]:  # a role may be unable to make it
            forget = f"DELETE FROM {KEYS.name} WHERE noun = %s"
            self._connection.execute(forget, (self._table.name,))

    def finish(self, last_drawn: int) -> None:
        sequence = self._row(_SEQUENCE, self._quoted)[0]
        with self._translate_errors():
            self._connection.execute(
                "SELECT setval(%(sequence)s, greatest(nextval(%(sequence)s), %(drawn)s + 1, "
                f"(SELECT max(id) + 1 FROM {self._quoted} WHERE id <= %(largest)s)), false)",
                {
                    "sequence": sequence,
                    "drawn": last_drawn if last_drawn <= MAX_CHOSEN_ID else 0,
                    "largest": MAX_CHOSEN_ID,
                },
            )
            # Or the first statements would be planned as for an empty table.
            self._connection.execute(f"ANALYZE {self._quoted}")

    def close(self) -> None:
        self._connection.close()

    def _begin(self, *, writes: bool) -> None:
        self._connection.read_only = not writes
        if writes:
            self._connection.execute(f"SET lock_timeout = '{_WAIT}s'")
            try:
                self._connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
            except self._psycopg.errors.LockNotAvailable as error:
                raise StartError(
                    f"{self.name}: another copy is storing rows there; wait until it has ended"
                ) from error
        else:
            self._connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ

    def _row(self, statement: str, *parameters: object) -> Any:  # noqa: ANN401
        with self._translate_errors():
            return self._connection.execute(statement, parameters or None).fetchone()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (self._psycopg.Error, SQLAlchemyError, UnicodeError) as error:
            raise StartError(f"{self.name}: {reason(error)}") from error
