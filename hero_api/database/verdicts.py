"""What an error of the database means: whom it concerns, and what they are told.

Only what stands in a list here concerns everybody who asks. Whatever else a database says is about
somebody's item: a constraint, a trigger, a right, a value that does not fit.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hero_api.errors import (
    BrokenError,
    BusyError,
    ContendedError,
    CorruptError,
    DamagedRowError,
    LateError,
    NoRoomError,
    RefusedError,
    RowLockedError,
    ServiceError,
    StatementError,
    UnavailableError,
    UnfitError,
)


class Concerns(Enum):
    """Whom an error concerns."""

    EVERYBODY = auto()  # the database cannot serve now
    ITEM = auto()  # one item is refused
    STATEMENT = auto()  # all items, or one: that shows when the statement runs without any
    MOMENT = auto()  # nobody: the same again may well work


class Verdict(NamedTuple):
    """Whom an error concerns, what they are told, and whether a COMMIT with it stored nothing."""

    concerns: Concerns
    told: Exception
    is_undone: bool = False


_Kind = tuple[Concerns, Callable[[], ServiceError]]

_BROKEN = Concerns.EVERYBODY, BrokenError
_ITEM = Concerns.ITEM, RefusedError
_STATEMENT = Concerns.STATEMENT, RefusedError

_BY_SQLITE_CODE: Mapping[int, _Kind] = {
    **dict.fromkeys(
        (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_NOMEM,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_PROTOCOL,
            sqlite3.SQLITE_INTERRUPT,
        ),
        _BROKEN,
    ),
    sqlite3.SQLITE_BUSY: (Concerns.EVERYBODY, BusyError),
    sqlite3.SQLITE_LOCKED: (Concerns.EVERYBODY, BusyError),
    sqlite3.SQLITE_FULL: (Concerns.EVERYBODY, NoRoomError),
    sqlite3.SQLITE_CORRUPT: (Concerns.ITEM, CorruptError),
    # The largest id that there can be is taken: the next one is no integer.
    sqlite3.SQLITE_MISMATCH: (Concerns.ITEM, NoRoomError),
    sqlite3.SQLITE_TOOBIG: (Concerns.ITEM, UnfitError),
    sqlite3.SQLITE_ERROR: _STATEMENT,
    sqlite3.SQLITE_MISUSE: _STATEMENT,
}
_UNDONE_BY_SQLITE = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}

# By the start of PostgreSQL's SQLSTATE (postgresql.org/docs/current/errcodes-appendix.html).
_BY_SQLSTATE: Mapping[str, _Kind] = {
    "08": _BROKEN,
    "0A000": (Concerns.MOMENT, BrokenError),  # a plan that was kept no longer fits the table
    "22": (Concerns.ITEM, UnfitError),
    "2200H": (Concerns.ITEM, NoRoomError),  # the sequence has no more ids
    "25": _STATEMENT,
    "25006": _BROKEN,  # a server that only reads
    "25P03": _BROKEN,
    "28": _BROKEN,
    "3D": _BROKEN,
    "40": (Concerns.MOMENT, ContendedError),
    "40003": _BROKEN,
    "42": _STATEMENT,
    "42501": _ITEM,
    "428C9": _ITEM,
    "53": _BROKEN,
    "53100": (Concerns.EVERYBODY, NoRoomError),
    "54": (Concerns.ITEM, UnfitError),
    "55P03": (Concerns.STATEMENT, RowLockedError),
    "57": _BROKEN,
    "57014": (Concerns.EVERYBODY, LateError),
    "58": _BROKEN,
    "XX001": (Concerns.ITEM, partial(CorruptError, "pg_amcheck")),
    "XX002": (Concerns.ITEM, partial(CorruptError, "pg_amcheck")),
}
_OF_A_BAD_ROW = ("decode to UTF-8", "JSON cannot hold BLOB")
_LONGEST = 300  # characters of a database's message in the log


def judge(error: Exception) -> Verdict:
    """Say what an error means that was raised in a batch."""
    if isinstance(error, PoolTimeoutError):
        return Verdict(Concerns.EVERYBODY, LateError())
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Verdict(Concerns.EVERYBODY, BrokenError())
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return _judge_sqlite(cause)
    # psycopg need not be installed: its errors are told by what they have.
    if hasattr(cause, "sqlstate"):
        return _judge_postgresql(cause)
    if isinstance(error, (ContendedError, UnavailableError)):
        is_moment = isinstance(error, ContendedError)
        return Verdict(Concerns.MOMENT if is_moment else Concerns.EVERYBODY, error)
    return Verdict(Concerns.ITEM, error)


def is_hearsay(error: Exception) -> bool:
    """Say whether an error may be a trigger's word alone.

    A trigger on PostgreSQL may raise any state. A lost connection shows by itself; whether the
    server is in trouble shows when the same statement runs without any items. Room is not asked
    for then, and a server that only reads refuses that too.
    """
    state = getattr(_cause(error), "sqlstate", None)
    return bool(state) and state not in {"53100", "25006"}


def is_duplicate(error: Exception, table: str) -> bool:
    """Say whether a row that a statement stores in `table` is there already, on PostgreSQL.

    What a trigger stores may be a duplicate too, and has a context then.
    """
    cause = _cause(error)
    diag: Any = getattr(cause, "diag", None)
    is_unique_violation = getattr(cause, "sqlstate", None) == "23505"
    return is_unique_violation and diag.table_name == table and not diag.context


def describe(error: Exception) -> str:
    """Return the name and the message of an error of the database, in one line for the log.

    Without what may quote a row: PostgreSQL's DETAIL, and values that do not fit.
    """
    cause = _cause(error)
    kind = getattr(cause, "sqlite_errorname", None) or type(cause).__name__
    message = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    if (getattr(cause, "sqlstate", None) or "").startswith("22"):
        message = re.sub(r'".*"', '"..."', message, flags=re.DOTALL)
    return f"{kind}: {' '.join(message.split())[:_LONGEST]}"


def blame_statement(name: str, error: Exception) -> Exception:
    """Return what is told of an error that a statement raises without any items."""
    verdict = judge(error)
    if isinstance(verdict.told, RowLockedError):
        return BusyError()  # a lock on the whole table
    is_old_plan = verdict.concerns is Concerns.MOMENT and isinstance(verdict.told, BrokenError)
    if verdict.concerns is Concerns.STATEMENT or is_old_plan:
        return StatementError(reason=f"{name}: {describe(error)}")
    return verdict.told


def _cause(error: Exception) -> BaseException:
    return (error.orig or error) if isinstance(error, DBAPIError) else error


def _judge_sqlite(cause: sqlite3.Error) -> Verdict:
    if any(words in str(cause) for words in _OF_A_BAD_ROW):
        return Verdict(Concerns.ITEM, DamagedRowError())
    # The low byte is the primary code; what is above it tells apart kinds of it.
    code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
    concerns, told = _BY_SQLITE_CODE.get(code, _ITEM)
    return Verdict(concerns, told(), code in _UNDONE_BY_SQLITE)


def _judge_postgresql(cause: BaseException) -> Verdict:
    state: str | None = getattr(cause, "sqlstate", None)
    if not state:  # the driver did not like what it was given: a NUL in a text, or a fault of ours
        concerns, told = _BY_SQLSTATE["22"] if type(cause).__name__ == "DataError" else _STATEMENT
        return Verdict(concerns, told())
    concerns, told = _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or _ITEM
    # A server that refuses a COMMIT has rolled it back.
    return Verdict(concerns, told(), concerns is not Concerns.EVERYBODY or state == "53100")
