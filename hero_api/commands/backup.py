"""`hero-api backup` and `hero-api restore`: a SQLite file, while the service runs on it."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Table

from hero_api.commands.endpoints import make_table
from hero_api.commands.new_file import file_beside, new_file
from hero_api.commands.upgrade import upgrade
from hero_api.database.sqlite.engine import check_alone
from hero_api.database.sqlite.file import (
    beside,
    check_file,
    check_log,
    open_read_only,
    open_read_write,
    stoppable,
    uri,
)
from hero_api.database.sqlite.transfer import keep_drawn
from hero_api.errors import StartError
from hero_api.settings import Settings

_PATIENCE = 30.0  # seconds that a restore waits for its turn to write
_PAUSE = 0.001  # seconds between two attempts
# By these SQLite draws ids and reads text, and the service has chosen its statements.
_FORM = """
    SELECT name, type, (SELECT count(*) FROM sqlite_master WHERE name = 'sqlite_sequence'),
           (SELECT encoding FROM pragma_encoding)
    FROM pragma_table_info(:table) ORDER BY name
"""
_LAST_DRAWN = "SELECT name, max(seq) FROM sqlite_sequence GROUP BY name"


def backup(settings: Settings, file: Path) -> int:
    """Write a copy of the database into a new file; return its size in bytes.

    The copy is checked and synced before it gets its name. Raises `StartError`, one line.
    """
    path = settings.path
    if not path.is_file():
        raise StartError(f"There is no database {path}")
    with new_file(file) as copy, _translate_errors(copy, path):
        check_log(file)  # of another file that had this name
        # Read-only without need, SQLite would take no lock; and with write access that is not to
        # both, it would leave its two files behind.
        can_write = all(os.access(each, os.W_OK) for each in (path, beside(path, "").parent))
        opened = open_read_write(path, settings.busy_timeout) if can_write else open_read_only(path)
        with closing(opened) as connection:
            _copy(connection, copy)
        _check(copy)
        return copy.stat().st_size


def restore(settings: Settings, file: Path, table: Table, *, patience: float = _PATIENCE) -> None:
    """Replace all that the database has by what a backup has, in one transaction.

    What the backup's table lacks is added first. No id that was ever given is given again. Raises
    `StartError`, one line, where nothing was changed.
    """
    path = settings.path
    if not file.is_file():
        raise StartError(f"There is no backup {file}")
    is_there = path.exists()
    check_file(path, makes=False)
    if is_there and file.samefile(path):
        raise StartError(f"{file} is the database itself; name a backup of it")
    check_alone(settings)
    is_known = True
    try:
        # Where there is no database, the copy becomes it.
        with file_beside(path) if is_there else new_file(beside(path, "")) as copy:
            _make_copy(settings, file, copy, table)
            is_known = False
            if is_there:
                with _translate_errors(path, path):
                    _put(copy, settings, time.monotonic() + patience)
    except KeyboardInterrupt:
        if is_known:
            raise
        raise StartError(f"Stopped; {path} has what it had, or all that {file} has") from None


def _make_copy(settings: Settings, file: Path, copy: Path, table: Table) -> None:
    """Copy a backup into what the service could start on, and the database can take."""
    path = settings.path
    page_size, form = 0, None
    if path.exists():
        with _translate_errors(path, path), closing(open_read_only(path)) as connection:
            [page_size] = connection.execute("PRAGMA page_size").fetchone()
            form = _form(connection, table)
    with _translate_errors(copy, file):
        with closing(open_read_only(file)) as connection:
            if not _form(connection, table):
                raise StartError(f"{file} has no table {table.name}; name a backup")
            # A database in WAL mode takes no pages of another size.
            connection.execute(f"PRAGMA page_size={page_size}")
            _copy(connection, copy)
        _check(copy)
        _make_ready(settings, copy, table)
        with closing(open_read_only(copy)) as connection:
            if form and _form(connection, table) != form:
                raise StartError(
                    f"{file} has a table {table.name} of another kind than {path}, or its text "
                    f"in another encoding: stop the service, move {path} away, and run the same "
                    "command again"
                )


def _form(connection: sqlite3.Connection, table: Table) -> object:
    return connection.execute(_FORM, {"table": table.name}).fetchall()


def _copy(connection: sqlite3.Connection, into: Path) -> None:
    with stoppable(connection):
        connection.execute("VACUUM INTO ?", (uri(into),))


def _check(copy: Path) -> None:
    with closing(open_read_only(copy)) as connection, stoppable(connection):
        [problem] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if problem != "ok":
        raise StartError(f"{copy} is damaged: {' '.join(problem.split())}")


def _make_ready(settings: Settings, copy: Path, table: Table) -> None:
    """Let the copy be what the service could start on."""
    url = settings.url.set(database=str(copy)).render_as_string()
    its_own = settings.model_copy(update={"database_url": url})
    upgrade(its_own, [table])
    make_table(its_own, table)


def _put(copy: Path, settings: Settings, end: float) -> None:
    """Write every page of the copy into the database, by SQLite's backup API."""
    with (
        closing(open_read_write(copy, 0)) as source,
        closing(open_read_write(settings.path, settings.busy_timeout)) as target,
        closing(open_read_write(settings.path, settings.busy_timeout)) as reader,
    ):
        target.execute("PRAGMA journal_mode=WAL")
        target.execute(f"PRAGMA synchronous={settings.synchronous}")
        # The backup waits by trying again, without end: it is this one's to give up.
        target.execute("PRAGMA busy_timeout=0")
        is_begun = False

        def after_each_page(status: int, *_: int) -> None:
            nonlocal is_begun
            if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                if time.monotonic() > end:
                    raise StartError("another process keeps it locked")
            elif not is_begun:
                # From the first page on, nobody else can write: no id is drawn any more.
                is_begun = True
                _keep_drawn(reader, source)

        # It takes its lock with the first page, and commits with the last.
        source.backup(target, pages=1, progress=after_each_page, sleep=_PAUSE)


def _keep_drawn(live: sqlite3.Connection, copy: sqlite3.Connection) -> None:
    """Let the copy draw no id that was drawn before; a backup takes note of such a change."""
    tables = [name for (name,) in live.execute("SELECT name FROM sqlite_master")]
    if "sqlite_sequence" in tables:
        for name, last in live.execute(_LAST_DRAWN).fetchall():
            keep_drawn(copy, name, last)


@contextmanager
def _translate_errors(copy: Path, of: Path) -> Iterator[None]:
    """Raise `StartError`: what is wrong with a copy is wrong with what it is of."""
    try:
        yield
    except sqlite3.Error as error:
        is_of_room = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
        if is_of_room and copy != of:
            raise StartError(f"A copy of {of} cannot be written: {error}") from error
        raise StartError(f"{of}: {error}") from error
    except StartError as error:
        raise StartError(str(error).replace(str(copy), str(of))) from error
