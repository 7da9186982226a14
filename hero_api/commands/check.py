"""`hero-api check`: looks for damage in a SQLite file, and changes nothing in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hero_api.database.sqlite.file import open_read_only
from hero_api.errors import StartError

_HEROES = """
    SELECT id, typeof(name) = 'text' AND typeof(secret_name) = 'text'
           AND typeof(age) IN ('integer', 'null'), name, secret_name FROM hero
"""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR}


def find_damage(path: Path) -> Iterator[str]:
    """Yield what is wrong with the file, a line for each problem; a sound file yields none.

    Raises `StartError`, one line, when the file cannot be checked.
    """
    try:
        _try_to_read(path)
    except OSError as error:
        reason = error.strerror or error
        raise StartError(
            f"The database {path} cannot be read ({reason}): check it as a user who may read it"
        ) from error
    try:
        with closing(open_read_only(path)) as connection:
            yield from _find(connection)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        if code & 0xFF not in _DAMAGE:  # the low byte is the primary code
            raise StartError(f"The database {path} cannot be checked: {error}") from error
        yield str(error)


def _try_to_read(path: Path) -> None:
    if not path.exists():
        raise StartError(
            f"There is no database {path}: name the one to check by HERO_API_DATABASE_URL"
        )
    if not path.is_file():
        raise StartError(f"{path} is no file: name the database's file by HERO_API_DATABASE_URL")
    path.open("rb").close()


def _find(connection: sqlite3.Connection) -> Iterator[str]:
    for (problem,) in connection.execute("PRAGMA integrity_check"):
        if problem != "ok":
            yield from str(problem).splitlines()
    connection.text_factory = bytes
    for hero_id, is_typed, name, secret_name in connection.execute(_HEROES):
        if not is_typed:
            yield f"hero {hero_id} holds values of the wrong type"
        elif not (_is_text(name) and _is_text(secret_name)):
            yield f"hero {hero_id} holds text that is not UTF-8"


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
