"""A short soak; `python -m tests.torture` has the long one."""

from pathlib import Path

from .soak import Soaked, soak

SECONDS = 1.0


async def test_a_mixed_load_of_many_connections_has_no_error_and_loses_nothing(
    tmp_path: Path, seed: int
) -> None:
    soaked = Soaked()
    async for soaked in soak(tmp_path, seed, SECONDS):
        assert soaked.errors == 0
    assert soaked.answers > 0
    assert len(soaked.descriptors) == 1
    assert soaked.verdict == ([], [])
