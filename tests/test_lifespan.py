"""What is said where the application's lifespan does not run, or not on asyncio."""

import httpx
import pytest
from fastapi import FastAPI

from hero_api.errors import StartError

PATHS = ["/heroes/", "/heroes/1", "/readyz", "/metrics"]
pytestmark = pytest.mark.sqlite


def assert_says_how_to_run_it(text: str) -> None:
    assert "The lifespan of the application is not running" in text
    assert "hero_api.testing.running(app)" in text
    assert "with TestClient(app)" in text


@pytest.mark.parametrize("path", PATHS)
async def test_the_answer_and_the_log_say_that_the_lifespan_is_not_running(
    app: FastAPI, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        answer = await client.get(path)
    assert answer.status_code == 500
    assert_says_how_to_run_it(answer.json()["detail"])
    [record] = [each for each in caplog.records if each.name == "hero_api"]
    assert_says_how_to_run_it(record.getMessage())


def test_a_service_that_is_not_on_asyncio_says_that_it_must_be(app: FastAPI) -> None:
    entering = app.router.lifespan_context(app).__aenter__()
    with pytest.raises(StartError, match="runs on asyncio alone"):
        entering.send(None)  # as another library's loop would
