"""PostgreSQL servers that the tests start from PostgreSQL's own programs, on the loopback."""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from hero_api.settings import Settings

from .ports import free_port

MISSING = "PostgreSQL's programs are missing; on Debian: apt-get install postgresql"
_SCHEMAS = 50  # that are made at a time: to connect takes much longer than to make one
_USER = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root


def _programs() -> Path | None:
    """Return the directory of PostgreSQL's programs: the newest of Debian's, or one on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


def has_postgresql() -> bool:
    """Say whether servers can be started; in CI they must be."""
    return _programs() is not None or "CI" in os.environ


@dataclass(frozen=True)
class Cluster:
    """A server, of one superuser and no password."""

    directory: Path
    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str = "postgres", **query: str) -> str:
        """Return the URL of a database."""
        options = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?{options}"

    def new_schema(self) -> str:
        """Return the URL of a schema that nobody used before."""
        number = next(self._numbers)
        if number % _SCHEMAS == 0:
            numbers = range(number, number + _SCHEMAS)
            with self.connect() as connection:
                connection.execute("; ".join(f"CREATE SCHEMA test_{each}" for each in numbers))
        return self.url(options=f"-csearch_path%3Dtest_{number}")

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """Connect as another program does; each statement is a transaction."""
        return psycopg.connect(self.url(), autocommit=True)

    def initialize(self, settings: Mapping[str, object]) -> None:
        """Make an empty server."""
        run(
            *("initdb", "--pgdata", self.data, "--username=postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale=C", "--no-sync"),
            cwd=self.directory,
        )
        self.configure(settings)

    def configure(self, settings: Mapping[str, object]) -> None:
        """Add to the settings of a server that does not run."""
        values = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            # Nothing here survives the tests: only those of durability need more.
            "fsync": "off",
            "max_connections": 200,
        }
        lines = [f"{key} = '{value}'\n" for key, value in (values | dict(settings)).items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        log = self.directory / "log"
        run("pg_ctl", "start", "-w", "-D", self.data, "-l", log, cwd=self.directory)

    def stop(self) -> None:
        """Stop the server at once, as a crash does."""
        run("pg_ctl", "stop", "-m", "immediate", "-D", self.data, cwd=self.directory)

    def kill(self) -> None:
        """End every process of the server at once, as `kill -9` does."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Let every process of the server stand still: it takes connections, and is silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a server that was frozen go on."""
        self._signal(signal.SIGCONT)

    @property
    def data(self) -> Path:
        """Where the server keeps everything."""
        return self.directory / "data"

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # so that it starts no other meanwhile
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (*map(int, children), postmaster):
            with suppress(ProcessLookupError):
                os.kill(process, number)


def run(program: str, *arguments: object, cwd: Path) -> None:
    """Run one of PostgreSQL's programs, as a user that it accepts."""
    programs = _programs()
    assert programs is not None, MISSING
    subprocess.run(
        [programs / program, *map(str, arguments)],
        cwd=cwd,
        user=_USER,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )


def new_cluster(directory: Path) -> Cluster:
    """Return a server that is to be made in `directory`, on a port that is free."""
    if _USER:
        shutil.chown(directory, _USER)
    return Cluster(directory, free_port())


@contextmanager
def running_cluster(settings: Mapping[str, object] | None = None) -> Iterator[Cluster]:
    """Start a server in a directory of its own; at the end both are gone."""
    with tempfile.TemporaryDirectory(prefix="hero-api-") as name:
        directory = Path(name)
        cluster = new_cluster(directory)
        cluster.initialize(settings or {})
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def connection_to(settings: Settings) -> Iterator[Any]:
    """Connect to the database of `settings`, as another program does."""
    if settings.is_postgresql:
        url = settings.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection
    else:
        with closing(sqlite3.connect(settings.path, isolation_level=None)) as connection:
            yield connection


def insert(settings: Settings, *rows: tuple[int, str, int | None, str]) -> None:
    """Write rows past the service, as another program would."""
    values = "%s, %s, %s, %s" if settings.is_postgresql else "?, ?, ?, ?"
    statement = f"INSERT INTO hero (id, name, age, secret_name) VALUES ({values})"
    with connection_to(settings) as connection:
        connection.cursor().executemany(statement, rows)


def stored(settings: Settings) -> list[Any]:
    """Return the rows of the table."""
    with connection_to(settings) as connection:
        cursor = connection.execute("SELECT id, name, age, secret_name FROM hero ORDER BY id")
        return [*cursor.fetchall()]
