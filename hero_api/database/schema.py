"""A table that a database has already, which may be of someone else's making."""

import logging
import warnings
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    CHAR,
    BigInteger,
    Column,
    Connection,
    SmallInteger,
    String,
    Table,
    inspect,
    text,
)
from sqlalchemy.exc import SAWarning
from sqlalchemy.types import LargeBinary, NullType

from hero_api.database.columns import Kind, kind_of, kind_of_type
from hero_api.database.keys import make_keys
from hero_api.errors import StartError

# SQLite finds a table whatever the case of its name, but keeps it as it was written.
_SQLITE_NAME = text(
    "SELECT name FROM sqlite_master WHERE name = :name COLLATE NOCASE AND type IN ('table', 'view')"
)
_SQLITE_TYPE = text("SELECT type FROM pragma_table_info(:table) WHERE name = :column")
# SQLite gives rowids to new rows, and only INTEGER PRIMARY KEY is the rowid
# (https://sqlite.org/lang_createtable.html#rowid): any other key has an index of its own.
_IS_ROWID = text("""
    SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :table)
       AND (SELECT group_concat(name) FROM pragma_table_info(:table) WHERE pk > 0) = 'id'
       AND NOT EXISTS (SELECT 1 FROM pragma_index_list(:table) WHERE origin = 'pk')
""")

logger = logging.getLogger("hero_api")


def has_table(connection: Connection, table: Table) -> bool:
    """Say whether there is the table; raise `StartError` for one that cannot be used.

    A column that cannot hold all that the API takes is a warning that names it.
    """
    inspector = inspect(connection)
    if not inspector.has_table(table.name):
        return False
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        name = connection.scalar(_SQLITE_NAME, {"name": table.name})
        if name != table.name:
            raise StartError(
                f"its table {table.name} is named {name}; rename it, by way of a third name"
            )
    columns = {column["name"]: column for column in columns_of(connection, table)}
    check_columns(table, columns)
    needed = [
        name
        for name, column in columns.items()
        if name not in table.columns
        and not column["nullable"]
        and column["default"] is None
        and not (column.get("identity") or column.get("computed"))
    ]
    if needed:
        names = ", ".join(needed)
        raise StartError(f"its table {table.name} needs values for {names}, which nobody gives")
    if is_sqlite and not connection.scalar(_IS_ROWID, {"table": table.name}):
        raise StartError(
            f"its {table.name} is no table whose id is INTEGER PRIMARY KEY, for which alone SQLite "
            "draws ids; make such a table, and copy the rows into it"
        )
    for column in table.columns:
        found = columns[column.name]["type"]
        if not is_sqlite and _is_of_another_kind(column, found):
            raise StartError(f"its table {table.name} has a column {column.name} of type {found}")
        holds_null = column.primary_key or columns[column.name]["nullable"] or not column.nullable
        if not (holds_null and (_sqlite_keeps if is_sqlite else _postgresql_holds)(column, found)):
            its_names = {"table": table.name, "column": column.name}
            logger.warning(
                "The column %s of the table %s is %s%s, which cannot hold all that the API takes",
                column.name,
                table.name,
                connection.scalar(_SQLITE_TYPE, its_names) if is_sqlite else found,
                "" if holds_null else " NOT NULL",
            )
    return True


def columns_of(connection: Connection, table: Table) -> Sequence[Any]:
    """Return the columns that the database's table has, as SQLAlchemy describes them."""
    with warnings.catch_warnings():
        # Columns that are not the service's may be of types that SQLAlchemy does not know.
        warnings.simplefilter("ignore", SAWarning)
        return inspect(connection).get_columns(table.name)


def check_columns(table: Table, found: Collection[str], where: str = "") -> None:
    """Raise `StartError` where the columns of these names are not all; `where` is said first."""
    missing = [column.name for column in table.columns if column.name not in found]
    if missing:
        names = ", ".join(missing)
        raise StartError(f"{where}its table {table.name} lacks {names}; run `hero-api upgrade`")


def make_missing(connection: Connection, tables: Sequence[Table]) -> None:
    """Make the tables that are not there, with their indexes, and that of the keys."""
    for table in tables:
        table.create(connection, checkfirst=True)
    make_keys(connection)


def _sqlite_keeps(column: Column[Any], found: Any) -> bool:  # noqa: ANN401
    """Say whether SQLite stores a value as it is given (https://sqlite.org/datatype3.html)."""
    if kind_of(column) is Kind.TEXT:
        return isinstance(found, (String, LargeBinary, NullType))
    if kind_of(column) is Kind.TIME:
        return kind_of_type(found) in {Kind.TIME, Kind.TEXT}
    return kind_of_type(found) not in {Kind.TEXT, Kind.FLOAT} or kind_of(column) is Kind.FLOAT


def _is_of_another_kind(column: Column[Any], found: Any) -> bool:  # noqa: ANN401
    """Say whether PostgreSQL cannot take the column's values at all."""
    found = getattr(found, "data_type", found)  # what a domain is made of
    return not isinstance(found, NullType) and kind_of_type(found) is not kind_of(column)


def _postgresql_holds(column: Column[Any], found: Any) -> bool:  # noqa: ANN401
    found = getattr(found, "data_type", found)
    if isinstance(found, CHAR):
        return False  # it adds blanks
    if isinstance(found, String):
        longest = column.info.get("longest")
        return found.length is None or (longest is not None and found.length >= longest)
    if column.primary_key:
        return isinstance(found, BigInteger)
    return not isinstance(found, SmallInteger)
