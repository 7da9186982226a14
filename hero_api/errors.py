"""What can go wrong, as the domain says it: each error has a status and a message."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError


class StartError(Exception):
    """The service cannot start; the message is one line that says what to do."""


class HeroError(Exception):
    """An error that a client is answered with: `status`, and the message as `detail`."""

    status = 500
    headers: dict[str, str] | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class HeroNotFoundError(HeroError):
    """There is no hero of that id."""

    status = 404

    def __init__(self) -> None:
        super().__init__("Hero not found")


class HeroExistsError(HeroError):
    """The id that a client chose is taken."""

    status = 409

    def __init__(self, hero_id: int) -> None:
        super().__init__(f"There is a hero of id {hero_id} already")


class RefusedError(HeroError):
    """A constraint of the database, one that is not the service's own, refuses the change."""

    status = 409

    def __init__(self) -> None:
        super().__init__("A constraint of the database refuses this change")


class DamagedHeroError(HeroError):
    """A row holds what no hero can, such as a BLOB for a name."""

    def __init__(self) -> None:
        super().__init__(
            "A stored hero cannot be read: its row holds values of the wrong type or encoding. "
            "Repair or delete the row in the database"
        )


class UnavailableError(HeroError):
    """The database cannot serve now; nothing was changed."""

    status = 503
    headers = {"Retry-After": "1"}  # noqa: RUF012 - never changed


class OverloadedError(UnavailableError):
    """Too many requests wait already; this one was not begun."""

    def __init__(self) -> None:
        super().__init__("Too many requests are waiting; nothing was done. Try again in a second")


class ClosingError(UnavailableError):
    """The service is stopping; this request was not begun."""

    def __init__(self) -> None:
        super().__init__("The service is stopping; nothing was done. Try again in a second")


class LateError(UnavailableError):
    """The deadline passed before the database answered, and nothing was changed."""

    def __init__(self) -> None:
        super().__init__("The database did not answer in time; nothing was changed. Try again")


class OutcomeUnknownError(UnavailableError):
    """The database did not say whether the change was stored."""

    def __init__(self) -> None:
        super().__init__(
            "The database did not answer in time, or failed, while it stored the change; "
            "whether it was stored is unknown. Read it before you try again"
        )


class BusyError(UnavailableError):
    """Another process holds the lock that this change needs."""

    def __init__(self) -> None:
        super().__init__(
            "Another process holds the database's lock; nothing was changed. Try again in a second"
        )


class BrokenError(UnavailableError):
    """The database cannot be read or written at all."""

    def __init__(self) -> None:
        super().__init__(
            "The database cannot be read or written; nothing was changed. "
            "Try again, and see the service's log if it stays so"
        )


class ReplacedError(UnavailableError):
    """The database's file, or SQLite's own beside it, is not the one that was opened."""

    def __init__(self) -> None:
        super().__init__(
            "The database's file, or the -wal or -shm beside it, was deleted or replaced; "
            "nothing was changed. Put it back, or restart the service on what is there now"
        )


class CorruptError(HeroError):
    """A page of the database's file is damaged, as `tool` can tell; the others are served."""

    status = 503
    headers = UnavailableError.headers

    def __init__(self, tool: str = "hero-api check") -> None:
        super().__init__(
            "The database is damaged where this hero is; nothing was changed. "
            f"Run `{tool}`, and restore a backup"
        )


class ContendedError(HeroError):
    """The database gave up one of two changes that wait for each other; this one can go alone."""

    status = 503
    headers = UnavailableError.headers

    def __init__(self) -> None:
        super().__init__(
            "Another change got in the way of this one; nothing was changed. Try again"
        )


class UnauthorizedError(HeroError):
    """The request does not carry the token."""

    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        super().__init__("This needs the header `Authorization: Bearer` with the service's token")


class NoRoomError(UnavailableError):
    """The database's disk or its page limit is full; nothing was changed."""

    status = 507

    def __init__(self) -> None:
        super().__init__(
            "The database has no room left; nothing was changed. "
            "Make room or delete heroes, then try again"
        )


_BY_SQLITE_CODE: dict[int, Callable[[], HeroError]] = {
    sqlite3.SQLITE_BUSY: BusyError,
    sqlite3.SQLITE_LOCKED: BusyError,
    sqlite3.SQLITE_FULL: NoRoomError,
    sqlite3.SQLITE_CONSTRAINT: RefusedError,
    sqlite3.SQLITE_CORRUPT: CorruptError,
}
# By the start of PostgreSQL's SQLSTATE; others are `BrokenError`.
_BY_SQLSTATE: dict[str, Callable[[], HeroError]] = {
    "22003": RefusedError,  # another's table has an id of 32 bits
    "2200H": NoRoomError,  # the sequence has no more ids
    "40": ContendedError,
    "53100": NoRoomError,
    "55P03": BusyError,
    "57014": LateError,
    "23": RefusedError,
    "XX001": partial(CorruptError, "pg_amcheck"),
    "XX002": partial(CorruptError, "pg_amcheck"),
}
_UNKNOWN: Any = object()
_OF_A_BAD_ROW = ("decode to UTF-8", "JSON cannot hold BLOB")


def from_database(error: Exception) -> Exception:
    """Return what a caller is told of an error that the database raised; others as they are."""
    if isinstance(error, PoolTimeoutError):
        return LateError()
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _from_sqlite(cause)
    # psycopg need not be installed: its errors are told by what they have.
    state = getattr(cause, "sqlstate", _UNKNOWN)
    return error if state is _UNKNOWN else _from_postgresql(state)


def _from_sqlite(cause: sqlite3.Error) -> HeroError:
    if any(words in str(cause) for words in _OF_A_BAD_ROW):
        return DamagedHeroError()
    # The low byte is the primary code; what is above it tells apart kinds of it.
    code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
    return _BY_SQLITE_CODE.get(code, BrokenError)()


def _from_postgresql(state: str | None) -> HeroError:
    state = state or ""  # none of a connection that was lost
    return (_BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or BrokenError)()
