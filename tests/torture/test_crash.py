import asyncio
from pathlib import Path

import pytest

from .crash import Crashes, crash

CHAINS, CYCLES = 2, 10
"""Two servers at a time, each with a file of its own: 20 cycles."""


async def crash_in_a_chain(directory: Path, seed: int) -> Crashes:
    crashes = Crashes()
    async for crashes in crash(directory, seed, CYCLES):
        assert crashes.lost == []
        assert crashes.strays == []
        assert crashes.damage == []
    return crashes


async def test_nothing_acknowledged_is_lost_by_kill_9_in_the_middle_of_a_load(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chains = range(CHAINS)
    ended = await asyncio.gather(
        *(crash_in_a_chain(tmp_path_factory.mktemp("crash"), seed + chain) for chain in chains)
    )
    assert [(crashes.cycles, crashes.kills) for crashes in ended] == [(CYCLES, CYCLES)] * CHAINS
    tallies = [{*crashes.ledger.tally} for crashes in ended]
    assert tallies == [{"acknowledged", "refused", "unknown"}] * CHAINS
