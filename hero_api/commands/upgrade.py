"""`hero-api upgrade`: adds to the tables of a database what the service's own have since got."""

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Table, inspect, literal, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.schema import ColumnCollectionConstraint, ScalarElementColumnDefault

from hero_api.database.schema import columns_of
from hero_api.database.sessions import make_engines
from hero_api.database.sqlite.engine import check_alone
from hero_api.database.urls import reason
from hero_api.errors import StartError
from hero_api.settings import Settings

_SQLITE_INDEXES = text("SELECT name FROM pragma_index_list(:table)")
_LONGEST = 86_400.0  # seconds: the index of a large table takes longer than a request may


def upgrade(settings: Settings, tables: Sequence[Table]) -> Sequence[str]:
    """Add missing tables, columns and indexes in one transaction; return a line for each.

    Raises `StartError`, one line, where that would not be enough; nothing is changed then.
    """
    check_alone(settings)
    return asyncio.run(_upgrade(settings, tables))


async def _upgrade(settings: Settings, tables: Sequence[Table]) -> Sequence[str]:
    engines = make_engines(settings.model_copy(update={"request_timeout": _LONGEST}))
    try:
        async with engines.writer.begin() as connection:
            return await connection.run_sync(_add, tables)
    except (SQLAlchemyError, sqlite3.Error, RuntimeError, UnicodeError, StartError) as error:
        where = settings.database_name
        raise StartError(f"Nothing was changed in {where}: {reason(error)}") from error
    finally:
        await engines.dispose()


def _add(connection: Connection, tables: Sequence[Table]) -> Sequence[str]:
    # Never its batch mode, which makes the table anew, and its ids with it.
    operations = Operations(MigrationContext.configure(connection))
    lines = []
    for table in tables:
        if not inspect(connection).has_table(table.name):
            table.create(connection)
            lines.append(f"Made the table {table.name}")
        known = {column["name"] for column in columns_of(connection, table)}
        for column in table.columns:
            if column.name not in known:
                operations.add_column(table.name, _addition(column, table))
                lines.append(f"Added {column.name} to the table {table.name}")
        indexes = _indexes(connection, table)
        for index in table.indexes:
            if index.name not in indexes:
                index.create(connection)
                lines.append(f"Made the index {index.name}")
    return lines


def _indexes(connection: Connection, table: Table) -> Collection[str | None]:
    if connection.dialect.name == "sqlite":
        # SQLAlchemy leaves out those over expressions, with a warning.
        return connection.scalars(_SQLITE_INDEXES, {"table": table.name}).all()
    return [index["name"] for index in inspect(connection).get_indexes(table.name)]


def _addition(column: Column[Any], table: Table) -> Column[Any]:
    """Return a column as it is added; rows that are there get its default.

    Raises `StartError` where that needs a decision.
    """
    where = f"{column.name} cannot be added to the table {table.name}"
    is_bound = any(
        isinstance(each, ColumnCollectionConstraint) and column.name in each.columns
        for each in table.constraints
    )
    if is_bound or column.unique or column.constraints:
        raise StartError(f"{where}, since a constraint is on it; write that migration yourself")
    default: Any = column.server_default
    if isinstance(column.default, ScalarElementColumnDefault):
        default = literal(column.default.arg, column.type)
    if not column.nullable and default is None:
        raise StartError(f"{where}, since its rows need a value; give the column a default")
    return Column(column.name, column.type, nullable=column.nullable, server_default=default)
