"""Several processes that start at once on one database that is not there yet."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.servers import ROOT, launching, listening

PROCESSES = 8
SCHEMA = [
    ("table", "hero"),
    ("table", "hero_api_idempotency"),
    ("index", "ix_hero_age"),
    ("index", "ix_hero_api_idempotency_created"),
    ("index", "ix_hero_api_idempotency_row_id"),
    ("index", "ix_hero_name"),
    ("index", "sqlite_autoindex_hero_api_idempotency_1"),
    ("table", "sqlite_sequence"),
]


class Starter:
    """Starts processes that run the application's lifespan; it imports the service only once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, file: Path) -> list[int]:
        """Start processes on `file` at once; return how each ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"sqlite:///{file}\n")
        self._process.stdin.flush()
        return [int(status) for status in self._process.stdout.readline().split()]


@contextmanager
def starting() -> Iterator[Starter]:
    """Yield a starter; at the end it is gone."""
    command = [sys.executable, "-m", "tests.torture.starter", str(PROCESSES)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Starter(process)
        finally:
            process.kill()


def serve_together(directory: Path, servers: int = PROCESSES) -> list[int]:
    """Start whole servers at once on one file, and stop them; return how each ended."""
    with ExitStack() as stack:
        launched = [stack.enter_context(launching(directory)) for _ in range(servers)]
        listen = [listening(process, directory) for process in launched]
        for server in listen:
            urlopen(f"http://{server.host}:{server.port}/heroes/").close()
            server.process.terminate()
        return [server.process.wait(60) for server in listen]


def schema(file: Path) -> list[tuple[str, str]]:
    """Return the type and the name of everything that the database has."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT type, name FROM sqlite_master ORDER BY name")
        return [(kind, name) for kind, name in rows]
