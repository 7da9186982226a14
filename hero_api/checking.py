"""`hero-api check`: looks for damage in a SQLite file, and changes nothing in it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hero_api.sqlite_file import open_read_only

_HEROES = """
    SELECT id, typeof(name) = 'text' AND typeof(secret_name) = 'text'
           AND typeof(age) IN ('integer', 'null'), name, secret_name FROM hero
"""


def find_damage(path: Path) -> Iterator[str]:
    """Yield what is wrong with the file, a line for each problem; a sound file yields none.

    Raises `StartError` when there is no such file.
    """
    try:
        with closing(open_read_only(path)) as connection:
            yield from _find(connection)
    except sqlite3.Error as error:
        yield str(error)


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
