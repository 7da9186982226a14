"""An end of a copy that is a PostgreSQL database. The driver is an extra."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.postgresql.engine import DEFAULTS, driver_is_missing
from hero_api.database.transfer import SELECT, Row
from hero_api.database.urls import shown
from hero_api.errors import StartError
from hero_api.models import MAX_AGE, MAX_CHOSEN_ID
from hero_api.settings import Settings

if TYPE_CHECKING:
    import psycopg

_PAGE = 400  # heroes that the server sends at a time
# The key of the lock that a copy holds on its target: "copy" in ASCII. One that was killed may
# still be storing its last chunk there.
_LOCK = 0x636F7079
_WAIT = 10  # seconds for that


class PostgreSQLEnd:
    """The heroes of a PostgreSQL database."""

    largest_age = MAX_AGE
    takes_nul = False

    def __init__(self, settings: Settings, *, writes: bool) -> None:
        self.name = shown(settings.url)
        self.identity: object = None
        dialect = settings.url.get_dialect()
        try:
            self._psycopg: Any = dialect.import_dbapi()
        except ImportError as error:
            raise driver_is_missing(error) from error
        _, options = dialect().create_connect_args(settings.url)
        with self._told():
            self._connection: psycopg.Connection[Any] = self._psycopg.connect(
                **{**DEFAULTS, **options, "client_encoding": "utf8"}, autocommit=writes
            )
            try:
                self._begin(writes=writes)
            except BaseException:
                self.close()
                raise

    def has_heroes(self) -> bool:
        return bool(self._row("SELECT to_regclass('hero') IS NOT NULL")[0])

    def count(self) -> int:
        return int(self._row("SELECT count(*) FROM hero")[0])

    def last_id(self) -> int | None:
        last: int | None = self._row("SELECT max(id) FROM hero")[0]
        return last

    def last_drawn(self) -> int:
        # The server has quoted the name.
        sequence = self._row("SELECT pg_get_serial_sequence('hero', 'id')")[0]
        if sequence is None:
            return 0
        return int(self._row(f"SELECT last_value - (NOT is_called)::int FROM {sequence}")[0])

    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]:
        with self._told(), self._connection.cursor(name="heroes") as cursor:
            cursor.execute(SELECT.format("%s"), (first, last))
            while page := cursor.fetchmany(_PAGE):
                yield from page

    def write(self, chunk: Sequence[Row]) -> None:
        try:
            with (
                self._connection.transaction(),
                self._connection.cursor() as cursor,
                cursor.copy("COPY hero (id, name, age, secret_name) FROM STDIN") as copy,
            ):
                for row in chunk:
                    copy.write_row(row)
        except self._psycopg.Error as error:
            # The server says in which line of what it was sent.
            line = re.match(r"COPY \D*(\d+)", error.diag.context or "")
            reason = f"cannot store hero {chunk[int(line[1]) - 1][0]}: " if line else ""
            raise StartError(f"{self.name} {reason}{_one_line(error)}") from error

    def finish(self, last_drawn: int) -> None:
        sequence = self._row("SELECT pg_get_serial_sequence('hero', 'id')")[0]
        with self._told():
            self._connection.execute(
                "SELECT setval(%(sequence)s, greatest(nextval(%(sequence)s), %(drawn)s + 1, "
                "(SELECT max(id) + 1 FROM hero WHERE id <= %(largest)s)), false)",
                {
                    "sequence": sequence,
                    "drawn": last_drawn if last_drawn <= MAX_CHOSEN_ID else 0,
                    "largest": MAX_CHOSEN_ID,
                },
            )
            # Or the first statements would be planned as for an empty table.
            self._connection.execute("ANALYZE hero")

    def close(self) -> None:
        self._connection.close()

    def _begin(self, *, writes: bool) -> None:
        # A server, one of its databases, and one of the tables there.
        identity = (
            "SELECT pg_postmaster_start_time(), to_regclass('hero')::oid, oid "
            "FROM pg_database WHERE datname = current_database()"
        )
        self._connection.read_only = not writes
        if writes:
            self._connection.execute(f"SET lock_timeout = '{_WAIT}s'")
            try:
                self._connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
            except self._psycopg.errors.LockNotAvailable as error:
                reason = "another copy is storing heroes there; wait until it has ended"
                raise StartError(f"{self.name}: {reason}") from error
        else:
            self._connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
        self.identity = self._row(identity)

    def _row(self, statement: str) -> Any:  # noqa: ANN401
        with self._told():
            return self._connection.execute(statement).fetchone()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (self._psycopg.Error, UnicodeError) as error:
            raise StartError(f"{self.name}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
