"""`hero-api upgrade`: adds to the tables of a database what the service's own have since got."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Table, inspect, literal
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.schema import ScalarElementColumnDefault

from hero_api.database.sessions import make_engines
from hero_api.errors import StartError
from hero_api.settings import Settings


def upgrade(settings: Settings, tables: Sequence[Table]) -> Sequence[str]:
    """Add missing tables, columns and indexes in one transaction; return a line for each.

    Raises `StartError`, one line, before anything is done where that would not be enough.
    """
    return asyncio.run(_upgrade(settings, tables))


async def _upgrade(settings: Settings, tables: Sequence[Table]) -> Sequence[str]:
    engines = make_engines(settings)
    try:
        async with engines.writer.begin() as connection:
            lines = await connection.run_sync(_add, tables)
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise StartError(f"Nothing was changed, since the database refuses it: {reason}") from error
    finally:
        await engines.close()
    return lines


def _add(connection: Connection, tables: Sequence[Table]) -> Sequence[str]:
    for table in tables:
        for column in _missing(connection, table):
            _check_that_it_can_be_added(column)
    # Never its batch mode, which makes the table anew, and its ids with it.
    operations = Operations(MigrationContext.configure(connection))
    lines = []
    for table in tables:
        if not inspect(connection).has_table(table.name):
            table.create(connection)
            lines.append(f"Made the table {table.name}")
        for column in _missing(connection, table):
            operations.add_column(table.name, _addition(column))
            lines.append(f"Added {column.name} to the table {table.name}")
        known = {index["name"] for index in inspect(connection).get_indexes(table.name)}
        for index in table.indexes:
            if index.name not in known:
                names = [column.name for column in index.columns]
                operations.create_index(str(index.name), table.name, names, unique=index.unique)
                lines.append(f"Made the index {index.name}")
    return lines


def _missing(connection: Connection, table: Table) -> Iterator[Column[Any]]:
    inspector = inspect(connection)
    if inspector.has_table(table.name):
        known = {column["name"] for column in inspector.get_columns(table.name)}
        yield from (column for column in table.columns if column.name not in known)


def _check_that_it_can_be_added(column: Column[Any]) -> None:
    where = f"Nothing was changed: {column.name} cannot be added to the table {column.table.name}"
    if column.primary_key or column.unique or column.foreign_keys:
        raise StartError(f"{where}, since it is a key; write that migration yourself")
    if not column.nullable and _default(column) is None:
        raise StartError(f"{where}, since its rows need a value; give the column a default")


def _addition(column: Column[Any]) -> Column[Any]:
    """Return a column as it is added; rows that are there get its default."""
    default = _default(column)
    return Column(
        column.name,
        column.type,
        nullable=column.nullable,
        server_default=None if default is None else literal(default, column.type),
    )


def _default(column: Column[Any]) -> Any:  # noqa: ANN401 - a value of any type
    default = column.default
    return default.arg if isinstance(default, ScalarElementColumnDefault) else None
