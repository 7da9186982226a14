import asyncio

import pytest

from hero_api.web.overload import OverloadLog

SOON = 30.0  # seconds: far more than anything here takes


async def until_ended(caplog: pytest.LogCaptureFixture, times: int = 1) -> None:
    async with asyncio.timeout(SOON):
        while caplog.text.count("has ended") < times:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0)


async def test_the_log_says_when_an_overload_begins_and_ends_and_how_many_it_cost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = OverloadLog(quiet=0.01)
    for _ in range(1_000):
        log.refused()
    await until_ended(caplog)
    begin, end = caplog.messages
    assert begin.startswith("An overload begins")
    assert end.endswith("1000 were refused")


async def test_the_next_overload_is_counted_anew(caplog: pytest.LogCaptureFixture) -> None:
    log = OverloadLog(quiet=0.01)
    log.refused()
    await until_ended(caplog)
    log.refused()
    log.refused()
    await until_ended(caplog, 2)
    assert caplog.messages[-1].endswith("2 were refused")
