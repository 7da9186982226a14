from pathlib import Path

from .restores import restore_under_load

ROUNDS = 1


async def test_restores_below_a_service_under_load_lose_nothing_and_give_no_id_twice(
    tmp_path: Path,
) -> None:
    seen = [one async for one in restore_under_load(tmp_path, ROUNDS)]
    assert [(one.refused, one.wrong) for one in seen] == [(0, [])] * ROUNDS
