"""SIGTERM under load."""

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import serving

from .ledger import stored_heroes
from .stops import PATIENCE, PROMISE, stop
from .wire import Connection, request_bytes

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}


async def test_sigterm_under_load_is_a_clean_end_and_leaves_no_request_that_was_read_unanswered(
    tmp_path: Path, seed: int
) -> None:
    stopped = await stop(tmp_path, random.Random(seed))
    assert (stopped.status, stopped.log, stopped.integrity) == (0, "", "ok")
    assert stopped.files == {"heroes.db", "stderr"}
    assert stopped.seconds < PATIENCE
    assert stopped.verdict == ([], [])


def test_sigterm_right_after_the_server_listens_is_a_clean_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0
        assert server.log.read_text() == ""


async def test_what_waits_for_a_lock_of_another_process_at_sigterm_is_refused_and_holds_nothing_up(
    tmp_path: Path,
) -> None:
    with (
        serving(tmp_path) as server,
        closing(sqlite3.connect(server.file, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        async with (
            Connection(server.host, server.port) as client,
            Connection(server.host, server.port) as witness,
        ):
            await client.request("GET", "/livez")
            await client.send(request_bytes("POST", "/heroes/", HERO))
            # The server answers this when it has read that.
            await witness.request("GET", "/livez")
            server.process.terminate()
            began = time.monotonic()
            answer = await client.receive()
        status = server.process.wait(PATIENCE)
        assert (answer.status, status) == (503, 0)
        assert "Traceback" not in server.log.read_text()
        assert time.monotonic() - began < PROMISE * 1.5
        assert stored_heroes(server.file) == {}
