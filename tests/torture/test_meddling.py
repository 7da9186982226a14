import random
from pathlib import Path

import pytest

from .ledger import integrity
from .meddling import meddle

pytestmark = pytest.mark.sqlite  # what others do to the file is SQLite's

ROUNDS = 60


async def test_writes_go_on_whatever_others_do_to_the_file_at_random(
    tmp_path: Path, seed: int
) -> None:
    file = tmp_path / "heroes.db"
    async for statuses in meddle(file, random.Random(seed), ROUNDS):
        assert {*statuses} == {200}
    assert integrity(file) == "ok"
