"""The table of heroes that a database has already, which may be of someone else's making."""

import logging
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Enum,
    Float,
    Integer,
    SmallInteger,
    String,
    inspect,
)
from sqlalchemy.types import LargeBinary, NullType

from hero_api.errors import StartError

_COLUMNS = {"id", "name", "age", "secret_name"}
_CHARACTERS = {"name": 500, "secret_name": 10_000}  # that the API takes

logger = logging.getLogger("hero_api")


def has_heroes(connection: Connection) -> bool:
    """Say whether there is a table of heroes; raise `StartError` for one that cannot be used.

    A column that cannot hold all that the API takes is a warning that names it.
    """
    inspector = inspect(connection)
    if not inspector.has_table("hero"):
        return False
    columns = {column["name"]: column for column in inspector.get_columns("hero")}
    needed = {
        name
        for name, column in columns.items()
        if not (
            column["nullable"]
            or column["default"] is not None
            or column.get("identity")
            or column.get("computed")
        )
    }
    if not columns.keys() >= _COLUMNS or needed - _COLUMNS:
        raise StartError(f"it has a table hero with other columns ({', '.join(sorted(columns))})")
    types = {name: columns[name]["type"] for name in sorted(_COLUMNS)}
    if connection.dialect.name == "sqlite":
        _check_rowid(connection)
        rows = connection.exec_driver_sql("PRAGMA table_info(hero)")
        declared = {row.name: row.type for row in rows}
        narrow = {name: declared[name] for name in types if not _sqlite_keeps(name, types[name])}
    else:
        narrow = {name: kind for name, kind in types.items() if not _postgresql_holds(name, kind)}
    for name, kind in narrow.items():
        logger.warning(
            "The column %s of the table hero is %s, which cannot hold all that the API takes",
            name,
            kind,
        )
    return True


def _check_rowid(connection: Connection) -> None:
    """Refuse ids that are not the rowids of the table, which SQLite gives to new heroes.

    Only INTEGER PRIMARY KEY is (https://sqlite.org/lang_createtable.html#rowid): any other key,
    such as BIGINT, has an index of its own.
    """
    inspector = inspect(connection)
    indexes = connection.exec_driver_sql("PRAGMA index_list(hero)")
    is_rowid = inspector.get_pk_constraint("hero")["constrained_columns"] == ["id"] and not any(
        index.origin == "pk" for index in indexes
    )
    if "hero" not in inspector.get_table_names() or not is_rowid:
        raise StartError(
            "its hero is no table whose id is INTEGER PRIMARY KEY, for which alone SQLite draws "
            "ids; make such a table, and copy the heroes into it"
        )


def _sqlite_keeps(name: str, kind: Any) -> bool:  # noqa: ANN401
    """Say whether SQLite stores a value as it is given (https://sqlite.org/datatype3.html)."""
    if name in _CHARACTERS:
        return isinstance(kind, (String, LargeBinary, NullType))
    return not isinstance(kind, (String, Float))


def _postgresql_holds(name: str, kind: Any) -> bool:  # noqa: ANN401
    kind = getattr(kind, "data_type", kind)  # what a domain is made of
    if name in _CHARACTERS:
        is_long = (
            isinstance(kind, String) and (kind.length or _CHARACTERS[name]) >= (_CHARACTERS[name])
        )
        return is_long and not isinstance(kind, Enum)
    if name == "id":
        return isinstance(kind, BigInteger)
    return isinstance(kind, Integer) and not isinstance(kind, SmallInteger)
