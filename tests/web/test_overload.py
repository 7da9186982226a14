import asyncio

import httpx
import pytest

from hero_api.batching.queue import arrived
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


async def test_requests_that_are_late_before_they_are_begun_are_an_overload(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    arrived.set(asyncio.get_running_loop().time() - 3_600)
    for _ in range(3):
        assert (await client.get("/heroes/1")).status_code == 503
    assert caplog.text.count("An overload begins") == 1
    text = (await client.get("/metrics")).text
    assert 'hero_api_unavailable_total{reason="Overloaded"} 3.0' in text
