"""An end of a copy that is a SQLite file."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.sqlite.file import identity, open_read_only, uri
from hero_api.database.transfer import SELECT, Row
from hero_api.errors import StartError
from hero_api.settings import Settings

_CACHE = 16_384  # KiB, in which SQLite keeps the ends of its indexes


class SQLiteEnd:
    """The heroes of a SQLite file."""

    largest_age = MAX_ID
    takes_nul = True

    def __init__(self, settings: Settings, *, writes: bool) -> None:
        self.name = str(settings.path)
        self.identity: object = identity(settings.path)
        with self._told():
            if writes:
                self._connection = sqlite3.connect(
                    uri(settings.path, "?mode=rw"),
                    uri=True,
                    isolation_level=None,
                    timeout=settings.busy_timeout,
                )
                self._connection.execute(f"PRAGMA synchronous={settings.synchronous}")
                self._connection.execute(f"PRAGMA cache_size=-{_CACHE}")
            else:
                self._connection = open_read_only(settings.path)
                self._connection.execute("BEGIN")

    def has_heroes(self) -> bool:
        return bool(self._scalar("SELECT count(*) FROM sqlite_master WHERE name = 'hero'"))

    def count(self) -> int:
        return int(self._scalar("SELECT count(*) FROM hero"))

    def last_id(self) -> int | None:
        last: int | None = self._scalar("SELECT max(id) FROM hero")
        return last

    def last_drawn(self) -> int:
        if not self._has_sequence():
            return 0
        return self._scalar("SELECT max(seq) FROM sqlite_sequence WHERE name = 'hero'") or 0

    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]:
        rest = first
        with self._told():
            try:
                for row in self._connection.execute(SELECT.format("?"), (first, last)):
                    rest = row[0] + 1
                    yield row
            except sqlite3.OperationalError as error:
                if "decode to UTF-8" not in str(error):
                    raise
                bad = self._scalar(f"SELECT min(id) FROM hero WHERE id >= {rest}")
                reason = f"hero {bad} holds text that is not UTF-8; mend or delete it"
                raise StartError(f"{self.name}: {reason}") from error

    def write(self, chunk: Sequence[Row]) -> None:
        with self._told(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT INTO hero (id, name, age, secret_name) VALUES (?, ?, ?, ?)", chunk
            )

    def finish(self, last_drawn: int) -> None:
        # AUTOINCREMENT follows the heroes by itself, but not those that were deleted.
        if not self._has_sequence():
            return
        with self._told(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'hero', 0 WHERE NOT EXISTS "
                "(SELECT 1 FROM sqlite_sequence WHERE name = 'hero')"
            )
            self._connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'hero'", (last_drawn,)
            )

    def close(self) -> None:
        self._connection.close()

    def _has_sequence(self) -> bool:
        statement = "SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'"
        return bool(self._scalar(statement))

    def _scalar(self, statement: str) -> Any:  # noqa: ANN401
        with self._told():
            return self._connection.execute(statement).fetchone()[0]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StartError(f"{self.name}: {error}") from error
