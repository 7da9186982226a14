"""Faults of the database: what SQLite raises, or how it stands still, at a chosen statement."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(eq=False)
class Fault:
    """What `times` statements that start with `step` meet, but for the first `skip` of each batch.

    `met` is how many have met it so far.
    """

    step: str
    times: int
    skip: int = 0
    before: "Callable[[_Connection], object] | None" = None
    after: "Callable[[_Connection], object] | None" = None
    met: int = 0
    _seen: int = 0

    def meets(self, statement: str) -> bool:
        """Say whether this statement is to meet it, and count it."""
        if statement.startswith("BEGIN"):
            self._seen = 0
        if self.times == 0 or not statement.startswith(self.step):
            return False
        self._seen += 1
        if self._seen <= self.skip:
            return False
        self.times -= 1
        self.met += 1
        return True


class Faults:
    """The faults that the connections made by `connect` meet; none unless one is set."""

    def __init__(self) -> None:
        self._set: list[Fault] = []

    @property
    def met(self) -> int:
        """How many statements have met a fault since the last `lift`."""
        return sum(fault.met for fault in self._set)

    def fail(
        self, step: str, error: str, moment: Moment, *, times: int = 1, skip: int = 0
    ) -> Fault:
        """Let the next `times` statements that start with `step` raise `error`.

        The first `skip` of them in each batch are done.
        """

        def fail(connection: _Connection) -> None:
            if moment is Moment.UNDONE:
                sqlite3.Connection.rollback(connection)
            raise sqlite_error(error)

        # A transaction that SQLite rolled back by itself was not committed.
        is_undone_first = moment is Moment.UNDONE and step == "COMMIT"
        if moment is Moment.BEFORE or is_undone_first:
            return self._add(Fault(step, times, skip, before=fail))
        return self._add(Fault(step, times, skip, after=fail))

    def cut(self, step: str, *, skip: int = 0) -> Fault:
        """Let the next connection that comes to `step` be closed there, under its user's feet."""
        return self._add(Fault(step, 1, skip, before=sqlite3.Connection.close))

    @contextmanager
    def freeze(self, step: str) -> Iterator[threading.Event]:
        """Let statements that start with `step` stand still, until the end of the block.

        Yields an event that is set when one does.
        """
        frozen, thawed = threading.Event(), threading.Event()

        def stand_still(_connection: _Connection) -> None:
            frozen.set()
            assert thawed.wait(60)

        self._add(Fault(step, 1_000_000, before=stand_still))
        try:
            yield frozen
        finally:
            self.lift()
            thawed.set()

    def count(self, step: str) -> Fault:
        """Let statements that start with `step` be counted, in `met`, and do what they do."""
        return self._add(Fault(step, 1_000_000))

    def spare(self) -> None:
        """Let what comes from now on work; what stands still stands still."""
        for fault in self._set:
            fault.times = 0

    def lift(self) -> None:
        """Let everything work again."""
        self._set = []

    @contextmanager
    def around(self, connection: "_Connection", statement: str) -> Iterator[None]:
        """Run a statement of `connection`, with the faults that it is to meet."""
        met = [fault for fault in self._set if fault.meets(statement.lstrip())]
        for fault in met:
            if fault.before is not None:
                fault.before(connection)
        yield
        for fault in met:
            if fault.after is not None:
                fault.after(connection)

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as sqlite3's
        """Connect as `sqlite3.connect` does, to a database that has these faults."""
        connection: _Connection = connect(*args, **options, factory=_Connection)
        connection.faults = self
        return connection

    def _add(self, fault: Fault) -> Fault:
        self._set.append(fault)
        return fault


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
