"""`hero-api check`: looks for damage in a SQLite file, and changes nothing in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Table, func
from sqlalchemy.dialects import sqlite

from hero_api.database.columns import kind_of
from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.schema import check_columns
from hero_api.database.sqlite.file import open_read_only, stoppable
from hero_api.database.sqlite.statements import TYPES
from hero_api.database.transfer import columns_in_order, in_order
from hero_api.errors import StartError

# Not every I/O error: SQLite needs room beside a file even to read it, and a full disk is none.
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
}


def find_damage(path: Path, table: Table) -> Iterator[str]:
    """Yield what is wrong with the file, a line for each problem; a sound file yields none.

    Raises `StartError`, one line, when the file cannot be checked.
    """
    try:
        with closing(open_read_only(path)) as connection, stoppable(connection):
            yield from _find(connection, table, f"The database {path} cannot be checked: ")
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if _DAMAGE.isdisjoint({code, code & 0xFF}):  # the low byte is the primary code
            raise StartError(f"The database {path} cannot be checked: {error}") from error
        yield str(error)


def _find(connection: sqlite3.Connection, table: Table, where: str) -> Iterator[str]:
    for (problem,) in connection.execute("PRAGMA integrity_check"):
        if problem != "ok":
            yield from str(problem).splitlines()
    quoted = sqlite.dialect().identifier_preparer.format_table(table)
    found = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({quoted})")]
    if found:
        check_columns(table, found, where)
    columns = columns_in_order(table)
    types = [
        {*TYPES[kind_of(column)], *(["null"] if column.nullable else [])} for column in columns
    ]
    select = in_order(table).add_columns(*map(func.typeof, columns))
    statement = str(select.compile(dialect=sqlite.dialect(paramstyle="named")))
    connection.text_factory = bytes
    for row in connection.execute(statement, {"first": MIN_ID, "last": MAX_ID}):
        values, found = row[: len(columns)], row[len(columns) :]
        if any(each.decode() not in expected for expected, each in zip(types, found, strict=True)):
            yield f"{table.name} {row[0]} holds values of the wrong type"
        elif not all(_is_text(value) for value in values if isinstance(value, bytes)):
            yield f"{table.name} {row[0]} holds text that is not UTF-8"


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
