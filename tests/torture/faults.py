"""Faults of the database: what SQLite raises, or how it stands still, at a chosen statement."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

connect = sqlite3.connect

_CODES = {
    "BUSY": (sqlite3.SQLITE_BUSY, sqlite3.OperationalError, "database is locked"),
    "FULL": (sqlite3.SQLITE_FULL, sqlite3.OperationalError, "database or disk is full"),
    "IOERR": (sqlite3.SQLITE_IOERR_WRITE, sqlite3.OperationalError, "disk I/O error"),
    "CONSTRAINT": (
        sqlite3.SQLITE_CONSTRAINT_CHECK,
        sqlite3.IntegrityError,
        "CHECK constraint failed",
    ),
}
ERRORS = list(_CODES)


def sqlite_error(name: str) -> sqlite3.Error:
    """Return an error as sqlite3 raises it."""
    code, kind, message = _CODES[name]
    error = kind(message)
    error.sqlite_errorcode = code
    error.sqlite_errorname = f"SQLITE_{name}"
    return error


class Moment(Enum):
    """When a statement fails: before it does anything, when it has done it, or having undone all.

    SQLite ends the transaction by itself, sometimes, on FULL and IOERR.
    """

    BEFORE = "before it is done"
    AFTER = "after it was done"
    UNDONE = "after SQLite rolled back by itself"


class Faults:
    """The faults that the connections made after `install` meet; none unless one is set."""

    def __init__(self) -> None:
        self.met = 0
        self._step = ""
        self._before: Callable[[_Connection], object] | None = None
        self._after: Callable[[_Connection], object] | None = None
        self._times = 0

    def fail(self, step: str, error: str, moment: Moment, *, times: int = 1) -> None:
        """Let the next `times` statements that start with `step` raise `error`."""

        def fail(connection: _Connection) -> None:
            if moment is Moment.UNDONE:
                sqlite3.Connection.rollback(connection)
            raise sqlite_error(error)

        if moment is Moment.BEFORE:
            self._set(step, times, before=fail)
        else:
            self._set(step, times, after=fail)

    def cut(self, step: str) -> None:
        """Let the next connection that comes to `step` be closed there, under its user's feet."""
        self._set(step, 1, before=sqlite3.Connection.close)

    @contextmanager
    def freeze(self, step: str) -> Iterator[threading.Event]:
        """Let statements that start with `step` stand still, until the end of the block.

        Yields an event that is set when one does.
        """
        frozen, thawed = threading.Event(), threading.Event()

        def stand_still(_connection: _Connection) -> None:
            frozen.set()
            assert thawed.wait(60)

        self._set(step, 1_000_000, before=stand_still)
        try:
            yield frozen
        finally:
            self.lift()
            thawed.set()

    def spare(self) -> None:
        """Let what comes from now on work; what stands still stands still."""
        self._times = 0

    def lift(self) -> None:
        """Let everything work again."""
        self._set("", 0)

    @contextmanager
    def around(self, connection: "_Connection", statement: str) -> Iterator[None]:
        """Run a statement of `connection`, with the fault that it is to meet."""
        before = after = None
        if self._times > 0 and statement.lstrip().startswith(self._step):
            before, after = self._before, self._after
            self._times -= 1
            self.met += 1
        if before is not None:
            before(connection)
        yield
        if after is not None:
            after(connection)

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as sqlite3's
        """Connect as `sqlite3.connect` does, to a database that has these faults."""
        connection: _Connection = connect(*args, **options, factory=_Connection)
        connection.faults = self
        return connection

    def _set(
        self,
        step: str,
        times: int,
        before: "Callable[[_Connection], object] | None" = None,
        after: "Callable[[_Connection], object] | None" = None,
    ) -> None:
        self.met = 0
        self._step, self._times, self._before, self._after = step, times, before, after


class _Connection(sqlite3.Connection):
    faults: Faults

    def cursor(self, *_args: object) -> "_Cursor":  # type: ignore[override]
        return _Cursor(self)

    def execute(self, sql: str, parameters: Any = ()) -> "_Cursor":  # noqa: ANN401 - as sqlite3's
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        with self.faults.around(self, "COMMIT"):
            super().commit()

    def rollback(self) -> None:
        with self.faults.around(self, "ROLLBACK"):
            super().rollback()


class _Cursor(sqlite3.Cursor):
    connection: _Connection

    def execute(self, sql: str, parameters: Any = ()) -> "_Cursor":  # noqa: ANN401 - as sqlite3's
        try:
            with self.connection.faults.around(self.connection, sql):
                super().execute(sql, parameters)
        except sqlite3.Error:
            # A statement that failed is over, as when sqlite3 itself says so.
            super().close()
            raise
        return self
