"""The file that SQLite keeps the heroes in: looked at before SQLite touches it."""

import os
import sqlite3
import urllib.parse
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL

from hero_api.errors import StartError
from hero_api.wal import Committed, beside, committed, page_size_of, wal_of

_HEADER_FIELDS = ((24, 28), (28, 32), (92, 96))


def unusable(path: Path, reason: str) -> StartError:
    """Return the error that says why the file cannot be used."""
    return StartError(f"The database {path} cannot be used: {reason}")


def check_file(path: Path) -> None:
    """Refuse a file that SQLite cannot work with; make an empty one where there is none.

    Raises `StartError`, one line.
    """
    try:
        try:
            _check_file(path)
        except StartError:
            _check_file(path)  # another process may have changed it between two looks
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from error


def _check_file(path: Path) -> None:
    directory = path.absolute().parent
    if not directory.is_dir():
        raise unusable(path, f"there is no directory {directory}; make it first")
    if path.is_dir():
        raise unusable(path, "it is a directory; name a file")
    if path.exists() and not path.is_file():
        raise unusable(path, "it is no regular file")
    if not os.access(directory, os.W_OK):
        raise unusable(path, f"the directory {directory} cannot be written")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise unusable(path, "the file cannot be read and written")
    log = _check_log(path)
    if path.exists():
        _check_header(path, log)
    else:
        # An empty file is an empty database; connections never make one.
        path.touch()


def _check_log(path: Path) -> Committed | None:
    """Refuse a missing or empty file beside a log that has commits: SQLite would delete the log.

    Read before the file, so that another process can only have moved pages to the file meanwhile.
    """
    log = committed(wal_of(path))
    if log and not (path.exists() and path.stat().st_size):
        reason = f"it is missing or empty, and {wal_of(path)} is not; restore it, or move that away"
        raise unusable(path, reason)
    return log


def _check_header(path: Path, log: Committed | None) -> None:
    """Refuse what is no SQLite file, or lacks its end (https://sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        header = file.read(100)
    size = path.stat().st_size
    if size == 0:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):  # noqa: PLR2004
        raise unusable(path, "it is not a SQLite database")
    if max(header[18], header[19]) > 2:  # noqa: PLR2004 - 1 is a rollback journal, 2 is WAL
        raise unusable(path, "it was written by a SQLite of the future")
    page_size = page_size_of(header)
    changes, pages, valid_for = (
        int.from_bytes(header[start:end], "big") for start, end in _HEADER_FIELDS
    )
    # Where there is a WAL or a journal, the end of the file may still be in it.
    if _has_journal(path):
        return
    if log or (changes == valid_for and pages):
        if not (log.completes(size) if log else size >= page_size * pages):
            raise unusable(path, "the file lacks its end; restore a backup")
    else:
        # SQLite before 3.7 did not say how many pages there are: only a look at all of them tells.
        _check_pages(path)


def _check_pages(path: Path) -> None:
    try:
        with closing(sqlite3.connect(uri(path, "?mode=ro&immutable=1"), uri=True)) as connection:
            [problem] = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise unusable(path, f"{error}; restore a backup") from error
    if problem != "ok":
        reason = " ".join(str(problem).split())
        raise unusable(path, f"the file is damaged or lacks its end ({reason}); restore a backup")


def _has_journal(path: Path) -> bool:
    journal = beside(path, "-journal")
    return journal.exists() and journal.stat().st_size > 0


def uri(path: Path, query: str = "") -> str:
    """Return the URI of a file, as SQLite has it (https://sqlite.org/uri.html)."""
    return f"file:{urllib.parse.quote(str(path.absolute()))}{query}"


def existing_file(url: URL) -> URL:
    """Return a URL that opens the file but never makes it."""
    database = uri(Path(url.database or ""))
    return url.set(database=database, query={**url.query, "mode": "rw", "uri": "true"})


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open the file for reading; neither it nor what is beside it is changed.

    Raises `StartError` where there is none, or where a crash left a change half written.
    """
    if not path.is_file():
        raise StartError(f"There is no database {path}")
    _check_log(path)
    with path.open("rb") as file:
        in_wal_mode = file.read(20)[18:] == b"\2\2"
    # SQLite would make its two files beside one that nobody uses, unless it is told so.
    unused = in_wal_mode and not wal_of(path).exists()
    query = f"?mode=ro&immutable={int(unused)}"
    connection = sqlite3.connect(uri(path, query), uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            reason = "a crash left a change half written; let `hero-api serve` open it once"
            raise unusable(path, reason) from error
        raise
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that was put in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
