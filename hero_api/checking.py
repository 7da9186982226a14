"""`hero-api check`: looks for damage in a SQLite file, and changes nothing in it."""

import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from hero_api.errors import StartError

_WRONG_TYPES = """
    SELECT id FROM hero WHERE typeof(name) <> 'text' OR typeof(secret_name) <> 'text'
        OR typeof(age) NOT IN ('integer', 'null')
"""


def find_damage(path: Path) -> Iterator[str]:
    """Yield what is wrong with the file, a line for each problem; a sound file yields none.

    Raises `StartError` when there is no such file.
    """
    if not path.is_file():
        raise StartError(f"There is no database {path}")
    uri = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield from _find(connection)
    except sqlite3.Error as error:
        yield str(error)


def _find(connection: sqlite3.Connection) -> Iterator[str]:
    for (problem,) in connection.execute("PRAGMA integrity_check"):
        if problem != "ok":
            yield from str(problem).splitlines()
    for (hero_id,) in connection.execute(_WRONG_TYPES):
        yield f"hero {hero_id} holds values of the wrong type"
    connection.text_factory = bytes
    for hero_id, name, secret_name in connection.execute("SELECT id, name, secret_name FROM hero"):
        try:
            name.decode(), secret_name.decode()
        except UnicodeDecodeError:
            yield f"hero {hero_id} holds text that is not UTF-8"
        except AttributeError:
            continue  # of the wrong type, as said above
