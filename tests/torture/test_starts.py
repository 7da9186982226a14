"""Eight processes that start at once on one file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import starts

ROUNDS = 3
SERVERS = 3


@pytest.fixture(scope="module")
def starter() -> Iterator[starts.Starter]:
    with starts.starting() as starter:
        yield starter


@pytest.mark.parametrize("_round", range(ROUNDS))
def test_processes_that_start_together_on_no_file_make_one_schema(
    starter: starts.Starter, tmp_path: Path, _round: int
) -> None:
    file = tmp_path / "heroes.db"
    assert starter.start(file) == [0] * starts.PROCESSES
    assert starts.schema(file) == starts.SCHEMA


def test_processes_that_start_together_on_a_file_write_nothing(
    starter: starts.Starter, tmp_path: Path
) -> None:
    file = tmp_path / "heroes.db"
    starter.start(file)
    before = file.read_bytes()
    assert starter.start(file) == [0] * starts.PROCESSES
    assert file.read_bytes() == before


def test_servers_that_start_together_on_no_file_all_serve(tmp_path: Path) -> None:
    assert starts.serve_together(tmp_path, SERVERS) == [0] * SERVERS
    assert starts.schema(tmp_path / "heroes.db") == starts.SCHEMA
    assert (tmp_path / "stderr").read_text() == ""
