"""The file that SQLite keeps the heroes in: looked at before anything is written to it."""

import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hero_api.errors import StartError

_PATIENCE = 5.0  # seconds that a command waits for a lock
_OPERATIONS = 100_000  # of SQLite's, after which Python looks for signals
_LOOKS = 4  # at the system's locks, before a file is refused


def unusable(path: Path, reason: str) -> StartError:
    """Return the error that says why the file cannot be used."""
    return StartError(f"The database {path} cannot be used: {reason}")


def check_file(path: Path, *, makes: bool = True) -> None:
    """Refuse a file that SQLite cannot work with; where there is none, `makes` an empty one.

    Raises `StartError`, one line.
    """
    try:
        try:
            _check_file(path, makes=makes)
        except (StartError, OSError):
            _check_file(path, makes=makes)  # another process may have changed it between two looks
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from error


def _check_file(path: Path, *, makes: bool) -> None:
    directory = path.absolute().parent
    if not directory.is_dir():
        raise unusable(path, f"there is no directory {directory}; make it first")
    if path.is_dir():
        raise unusable(path, "it is a directory; name a file")
    if path.exists() and not path.is_file():
        raise unusable(path, "it is no regular file")
    if not os.access(directory, os.W_OK):
        raise unusable(path, f"the directory {directory} cannot be written")
    if is_mounted(path):
        raise unusable(path, "it is mounted alone, and its -wal would not be; mount its directory")
    for file in (path, *_own_files(path)):
        _check_access(path, file)
    check_log(path)
    if path.exists():
        _check_content(path)
    elif makes:
        # An empty file is an empty database; connections never make one.
        path.touch()


def is_mounted(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Say whether the very file is a mount, as a container may have it; os.path.ismount does not.

    Where the system does not list its mounts (proc_pid_mountinfo(5)), none is.
    """
    try:
        lines = mounts.read_bytes().split(b"\n")
    except OSError:
        return False
    points = {
        re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        for line in lines
        if line
    }
    return os.fsencode(os.path.realpath(path)) in points


def _check_access(path: Path, file: Path) -> None:
    """Refuse the file, or one of SQLite's own, that someone else has left, such as root."""
    if not file.exists() or os.access(file, os.R_OK | os.W_OK):
        return
    if file.stat().st_uid == os.geteuid():
        raise unusable(path, f"{file} cannot be read and written; chmod u+rw it")
    try:
        owner = file.owner()
    except KeyError:  # in a container, a user may have no name
        owner = f"user {file.stat().st_uid}"
    raise unusable(path, f"{file} belongs to {owner} and cannot be written; chown it to this user")


def check_log(path: Path) -> None:
    """Refuse a missing file beside one of SQLite's own, and an empty one beside a log that is not.

    SQLite would delete the log, or play a journal back into another file that is put there. And a
    service that still has the missing or another file open would share even an empty log with the
    next one, and take with it what that one has answered.
    """
    # What is beside it first: another process can only have made the file, and moved pages to it,
    # meanwhile.
    left = " and ".join(str(each) for each in _own_files(path) if each.exists())
    if left and not path.exists():
        raise unusable(path, f"it is missing, but not {left}; restore it, or move {left}")
    if _is_log_of_another_file(path):
        reason = "a process still uses another file of this name, and the log; stop it first"
        raise unusable(path, reason)
    log = beside(path, "-wal")
    # A file of one byte is empty for SQLite; and in its first transaction, one has a journal.
    if _size(log) and _size(path) <= 1:
        raise unusable(path, f"it is empty, and {log} is not; restore it, or move {log}")


def _is_log_of_another_file(path: Path) -> bool:
    """Say whether a process has the log open, but not the file: its own was replaced by this one.

    SQLite locks a file for as long as it has its log open. Where the system does not list the
    locks (proc_locks(5)), none is found, and so are those of another container.
    """
    # A long list is read in pieces, and lacks a lock where another ends between two of them.
    return all(_is_log_locked_alone(path) for _ in range(_LOOKS))


def _is_log_locked_alone(path: Path) -> bool:
    try:
        locks = Path("/proc/locks").read_text(encoding="utf-8")
        file, index = (
            f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino} "
            for status in (path.stat(), beside(path, "-shm").stat())
        )
    except OSError:
        return False
    return index in locks and file not in locks


def _check_content(path: Path) -> None:
    """Refuse what SQLite cannot read, and a file that is shorter than SQLite says."""
    # No lock is waited for here: that would keep a signal waiting too.
    try:
        with closing(_connect_read_only(path, 0)) as connection:
            connection.execute("BEGIN")  # while it lasts, no page leaves both the log and the file
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            [pages], [page_size] = (
                connection.execute(f"PRAGMA {name}").fetchone()
                for name in ("page_count", "page_size")
            )
            if pages * page_size > _size(path) + _size(beside(path, "-wal")):
                raise unusable(path, "the file lacks its end; move it away, and restore a backup")
    except sqlite3.Error as error:
        # Whatever else it is, such as a lock or a transaction to roll back, shows later too.
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise unusable(path, f"{error}; move it away, and restore a backup") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _own_files(path: Path) -> list[Path]:
    return [beside(path, suffix) for suffix in ("-wal", "-shm", "-journal")]


def beside(path: Path, suffix: str) -> Path:
    """Return where SQLite's own file of that suffix is: beside the file, not a link to it."""
    # Unlike Path.resolve(), it does not mind a loop of links.
    return Path(os.path.realpath(path) + suffix)


def uri(path: Path, query: str = "") -> str:
    """Return the URI of a file, as SQLite has it (https://sqlite.org/uri.html)."""
    return f"file:{urllib.parse.quote(os.fsencode(path.absolute()))}{query}"


def open_read_write(path: Path, timeout: float) -> sqlite3.Connection:
    """Open a file that is there; `timeout` is the seconds that it waits for a lock.

    Raises `StartError` for what `check_file` refuses, before anything is written: a log would be
    moved into a file that lacks its end, which then no longer shows.
    """
    check_file(path, makes=False)
    return sqlite3.connect(uri(path, "?mode=rw"), uri=True, isolation_level=None, timeout=timeout)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open the file for reading; neither it nor its log is changed.

    Raises `StartError` where there is none, where it may not be read, or where a crash left a
    change half written.
    """
    try:
        if not path.is_file():
            raise StartError(f"There is no database {path}")
        check_log(path)
        connection = _connect_read_only(path, _PATIENCE)
    except OSError as error:
        raise unusable(path, f"{error.strerror}; try it as a user who may read it") from error
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            reason = "a crash left a change half written; let `hero-api serve` open it once"
            raise unusable(path, reason) from error
        raise
    return connection


@contextmanager
def stoppable(connection: sqlite3.Connection) -> Iterator[None]:
    """Let Ctrl-C stop a long statement of a connection too, and be what it is elsewhere."""
    connection.set_progress_handler(lambda: 0, _OPERATIONS)
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise


def _connect_read_only(path: Path, timeout: float) -> sqlite3.Connection:
    # Unless it is told that nobody uses the file, SQLite would make its two beside it.
    in_use = beside(path, "-wal").exists() or _size(beside(path, "-journal"))
    unused = not in_use and _is_in_wal_mode(path)
    query = f"?mode=ro&immutable={int(unused)}"
    return sqlite3.connect(uri(path, query), uri=True, isolation_level=None, timeout=timeout)


def _is_in_wal_mode(path: Path) -> bool:
    """Say whether the header names WAL mode (https://sqlite.org/fileformat.html)."""
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\2\2"


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another that was put in its place."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
