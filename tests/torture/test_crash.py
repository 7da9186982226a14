from pathlib import Path

from .crash import Crashes, crash

CYCLES = 5


async def test_nothing_acknowledged_is_lost_by_kill_9_in_the_middle_of_a_load(
    tmp_path: Path, seed: int
) -> None:
    crashes = Crashes()
    async for crashes in crash(tmp_path, seed, CYCLES):
        assert crashes.lost == []
        assert crashes.strays == []
        assert crashes.damage == []
    assert (crashes.cycles, crashes.kills) == (CYCLES, CYCLES)
    assert {*crashes.ledger.tally} == {"acknowledged", "refused", "unknown"}
