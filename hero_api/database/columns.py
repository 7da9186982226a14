"""The types that a column may have."""

from datetime import date, datetime, time
from enum import Enum, auto
from typing import Any

from sqlalchemy import Column
from sqlalchemy import Enum as EnumType
from sqlalchemy.types import TypeDecorator, TypeEngine

from hero_api.errors import StartError


class Kind(Enum):
    """What a column holds, whatever an engine calls it."""

    TEXT = auto()
    INTEGER = auto()
    BOOLEAN = auto()
    FLOAT = auto()
    TIME = auto()  # a date, a time, or both


# What the database renders as JSON as Pydantic would; a table that has others is rendered by it.
RENDERED = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN})
_KINDS: dict[type, Kind] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    bool: Kind.BOOLEAN,
    float: Kind.FLOAT,
    date: Kind.TIME,
    time: Kind.TIME,
    datetime: Kind.TIME,
}


def python_type(its_type: TypeEngine[Any]) -> Any:  # noqa: ANN401
    """Return the Python type of a column's values; nothing for a type that no column may have."""
    its_type = _undecorated(its_type)
    try:
        return None if isinstance(its_type, EnumType) else its_type.python_type
    except NotImplementedError:
        return None


def has_zone(its_type: TypeEngine[Any]) -> bool:
    """Say whether a column keeps moments, and not what a clock shows somewhere."""
    return bool(getattr(_undecorated(its_type), "timezone", False))


def kind_of_type(its_type: TypeEngine[Any]) -> Kind | None:
    """Return what columns of a type hold; nothing for a type that no column may have."""
    return _KINDS.get(python_type(its_type))


def kind_of(column: Column[Any]) -> Kind:
    """Return what a column holds. Raises `StartError` for a type that no column may have."""
    kind = kind_of_type(column.type)
    if kind is None:
        raise StartError(
            f"The column {column.name} of the table {column.table.name} is of the type "
            f"{column.type!r}; text, integers, floats, booleans, dates and times can be served"
        )
    return kind


def _undecorated(its_type: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type that a decorated one wraps, as SQLModel's for text does."""
    return its_type.impl_instance if isinstance(its_type, TypeDecorator) else its_type
