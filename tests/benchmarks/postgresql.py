"""PostgreSQL in the race: one server for all, in which each has a database of its own."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from tests.clusters import MISSING, has_postgresql, running_cluster

_FREE_WITHIN = 30.0  # seconds that a server which was stopped may take to leave its database


def missing() -> str | None:
    """Return in one line what is missing, if so."""
    return None if has_postgresql() else MISSING


@contextmanager
def started() -> Iterator[str]:
    """Run a server on this process's cores, durable as by default; yield its version.

    Who is started meanwhile finds it by the variables that libpq reads.
    """
    with running_cluster({"fsync": "on"}) as cluster:
        os.environ |= {"PGHOST": "127.0.0.1", "PGPORT": str(cluster.port), "PGUSER": "postgres"}
        with _connect("postgres") as connection:
            version = str(connection.info.parameter_status("server_version"))
        yield version


def create(name: str, template: str = "template1") -> None:
    """Make a database, like another that nobody uses any more."""
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    end = time.monotonic() + _FREE_WITHIN
    with _connect("postgres") as connection:
        while True:
            try:
                connection.execute(statement.format(*map(sql.Identifier, (name, template))))
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > end:
                    raise
            else:
                return


def fill(name: str, rows: Iterable[tuple[str | int, ...]]) -> None:
    """Fill the table of heroes, and leave it as it is after a while of use."""
    with _connect(name) as connection:
        with connection.cursor().copy("COPY hero (id, name, age, secret_name) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.execute("SELECT setval(pg_get_serial_sequence('hero', 'id'), max(id)) FROM hero")
        connection.execute("VACUUM ANALYZE hero")


@contextmanager
def copied(template: str, name: str) -> Iterator[None]:
    """Copy a database, for one run."""
    create(name, template)
    try:
        with _connect(name) as connection:
            connection.execute("CHECKPOINT")  # none in the middle of the run
        yield
    finally:
        with _connect("postgres") as connection:
            statement = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(name)))


def _connect(name: str) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(dbname=name, autocommit=True)
