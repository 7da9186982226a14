"""The heroes that a server starts with: its own tables, filled past it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from . import postgresql
from .machine import Cores
from .process import Running, free_port, running
from .servers import Server


def make(server: Server, directory: Path, heroes: int, cores: Cores) -> None:
    """Let the server make its tables in `directory`, stop it, and fill in `heroes` heroes."""
    directory.mkdir()
    if server.database is None:
        return
    if server.on_postgresql:
        postgresql.create(directory.name)
    with serving(server, directory, cores) as process:
        server.set_up(process, directory)
    rows = (
        (server.hero_id % number, f"Hero {number}", number % 100, f"Secret name {number}")
        for number in range(1, heroes + 1)
    )
    if server.on_postgresql:
        postgresql.fill(directory.name, rows)
        return
    insert = f"INSERT INTO {server.table} (id, name, age, secret_name) VALUES (?, ?, ?, ?)"
    with closing(sqlite3.connect(directory / server.database)) as connection, connection:
        connection.executemany(insert, rows)


@contextmanager
def serving(server: Server, directory: Path, cores: Cores) -> Iterator[Running]:
    """Start the server on what is in `directory`, wait until it answers, and stop it."""
    port = free_port()
    command, environment = server.command(port, directory), server.environment(directory)
    of_server = [cores.server, cores.load][: server.processes]
    with running(command, port, of_server, directory, environment) as process:
        process.wait(server.routes.first)
        yield process


@contextmanager
def copied(server: Server, stock: Path) -> Iterator[Path]:
    """Copy what `make` made, for one run."""
    copy = stock.with_name(f"{stock.name}-run")
    shutil.copytree(stock, copy)
    try:
        on = server.on_postgresql
        with postgresql.copied(stock.name, copy.name) if on else nullcontext():
            yield copy
    finally:
        shutil.rmtree(copy)
