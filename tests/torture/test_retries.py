import random
from pathlib import Path

import pytest

from tests.servers import serving

from .crash import CLIENTS, Crashes, crash
from .ledger import Hero, Ledger, stored_heroes
from .retries import Retries

CYCLES = 3


@pytest.fixture
def retries(seed: int) -> Retries:
    return Retries(Ledger(), random.Random(seed), clients=CLIENTS)


async def test_creates_that_are_sent_again_until_they_are_answered_are_done_once_under_kill_9(
    tmp_path: Path, seed: int, retries: Retries
) -> None:
    crashes = Crashes()
    async for crashes in crash(tmp_path, seed, CYCLES, load=retries):
        assert (crashes.lost, crashes.strays, crashes.damage) == ([], [], [])
    assert crashes.kills == CYCLES
    retries.stop()
    with serving(tmp_path) as server:
        await retries.run(server.host, server.port)
        assert retries.wrong(stored_heroes(server.file)) == []
    assert retries.replays > 0


def test_a_key_with_no_hero_or_two_or_another_is_noticed(retries: Retries) -> None:
    hero = Hero("a", None, "?")
    retries.answered["a"] = 1
    assert retries.wrong({1: hero}) == []
    for stored in ({}, {1: hero, 2: hero}, {2: hero}, {1: hero, 2: Hero("b", None, "?")}):
        assert len(retries.wrong(stored)) == 1
