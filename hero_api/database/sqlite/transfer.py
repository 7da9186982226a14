"""An endpoint of a transfer that is a SQLite file."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeEngine

from hero_api.database.columns import Kind, has_zone, kind_of, python_type
from hero_api.database.keys import KEYS
from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.schema import check_columns
from hero_api.database.sqlite.file import identity, open_read_only, open_read_write
from hero_api.database.transfer import Row, columns_in_order, in_order
from hero_api.errors import StartError
from hero_api.settings import Settings

_CACHE = 16_384  # KiB, in which SQLite keeps the ends of its indexes
_KEEP_DRAWN = "UPDATE sqlite_sequence SET seq = max(seq, :last) WHERE name = :name"
_ADD_DRAWN = """
    INSERT INTO sqlite_sequence (name, seq) SELECT :name, :last
    WHERE :name IN (SELECT name FROM sqlite_master)
    AND :name NOT IN (SELECT name FROM sqlite_sequence)
"""
_DIALECT = sqlite.dialect(paramstyle="named")


class SQLiteEndpoint:
    """The rows of a table in a SQLite file."""

    takes_nul = True

    def __init__(self, settings: Settings, table: Table, *, writes: bool) -> None:
        self.name = settings.database_name
        self.identity: object = identity(settings.path)
        self._table = table
        quote = _DIALECT.identifier_preparer
        self._quoted = quote.format_table(table)
        self._select = str(in_order(table).compile(dialect=_DIALECT))
        columns = columns_in_order(table)
        names, values = ", ".join(map(quote.format_column, columns)), ", ".join("?" * len(columns))
        self._insert = f"INSERT INTO {self._quoted} ({names}) VALUES ({values})"
        self._times = {
            place: column.type
            for place, column in enumerate(columns)
            if kind_of(column) is Kind.TIME
        }
        with self._translate_errors():
            if writes:
                self._connection = open_read_write(settings.path, settings.busy_timeout)
                self._connection.execute(f"PRAGMA synchronous={settings.synchronous}")
                self._connection.execute(f"PRAGMA cache_size=-{_CACHE}")
            else:
                self._connection = open_read_only(settings.path)
                self._connection.execute("BEGIN")

    def has_table(self) -> bool:
        with self._translate_errors():
            rows = self._connection.execute(f"PRAGMA table_info({self._quoted})").fetchall()
        if rows:
            check_columns(self._table, [name for _, name, *_ in rows], f"{self.name}: ")
        return bool(rows)

    def count(self) -> int:
        return int(self._scalar(f"SELECT count(*) FROM {self._quoted}"))

    def last_id(self) -> int | None:
        last: int | None = self._scalar(f"SELECT max(id) FROM {self._quoted}")
        return last

    def last_drawn(self) -> int:
        if not self._has_sequence():
            return 0
        statement = "SELECT max(seq) FROM sqlite_sequence WHERE name = ?"
        return self._scalar(statement, self._table.name) or 0

    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]:
        rest = first
        with self._translate_errors():
            try:
                for row in self._connection.execute(self._select, {"first": first, "last": last}):
                    rest = row[0] + 1
                    yield self._with_times(row) if self._times else row
            except sqlite3.OperationalError as error:
                if "decode to UTF-8" not in str(error):
                    raise
                bad = self._scalar(f"SELECT min(id) FROM {self._quoted} WHERE id >= ?", rest)
                reason = f"{self._table.name} {bad} holds text that is not UTF-8; mend or delete it"
                raise StartError(f"{self.name}: {reason}") from error

    def write(self, chunk: Sequence[Row], *, clears: bool = False) -> None:
        rows = [tuple(map(_as_stored, row)) for row in chunk] if self._times else chunk
        with self._translate_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if clears:
                self._connection.execute(f"DELETE FROM {self._quoted}")
                forget = f"DELETE FROM {KEYS.name} WHERE noun = ?"
                self._connection.execute(forget, (self._table.name,))
            self._connection.executemany(self._insert, rows)

    def finish(self, last_drawn: int) -> None:
        # AUTOINCREMENT follows the rows by itself, but not those that were deleted.
        if not self._has_sequence():
            return
        with self._translate_errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            keep_drawn(self._connection, self._table.name, last_drawn)

    def close(self) -> None:
        self._connection.close()

    def _with_times(self, row: Row) -> Row:
        """Return a row with dates and times as Python has them; SQLite keeps text."""
        values = list(row)
        for place, its_type in self._times.items():
            if isinstance(values[place], str):
                try:
                    values[place] = _as_time(its_type, values[place])
                except ValueError as error:
                    reason = (
                        f"{self._table.name} {row[0]} holds {values[place]!r}, which is no time"
                    )
                    raise StartError(f"{self.name}: {reason}; mend or delete it") from error
        return tuple(values)

    def _has_sequence(self) -> bool:
        statement = "SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'"
        return bool(self._scalar(statement))

    def _scalar(self, statement: str, *parameters: object) -> Any:  # noqa: ANN401
        with self._translate_errors():
            return self._connection.execute(statement, parameters).fetchone()[0]

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StartError(f"{self.name}: {error}") from error


def keep_drawn(connection: sqlite3.Connection, table: str, last: int) -> None:
    """Let SQLite draw no id up to `last` again, for a table of the file that has AUTOINCREMENT."""
    drawn = {"name": table, "last": last}
    connection.execute(_KEEP_DRAWN, drawn)
    connection.execute(_ADD_DRAWN, drawn)


def _as_time(its_type: TypeEngine[Any], stored: str) -> date | time:
    value: date | time = python_type(its_type).fromisoformat(stored)
    if isinstance(value, datetime) and has_zone(its_type) and not value.tzinfo:
        return value.replace(tzinfo=UTC)
    return value


def _as_stored(value: object) -> object:
    return value.isoformat() if isinstance(value, (date, time)) else value
