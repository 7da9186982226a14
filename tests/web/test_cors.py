"""A preflight that is refused is JSON, as every error is."""

import httpx
import pytest

from hero_api.app import create_app
from hero_api.settings import Settings

ORIGIN = "https://heroes.example"
pytestmark = pytest.mark.sqlite


async def preflight(settings: Settings, origin: str) -> httpx.Response:
    app = create_app(settings.model_copy(update={"cors_origins": [ORIGIN]}))
    headers = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        return await client.options("/heroes/1", headers=headers)


async def test_a_preflight_of_another_origin_is_refused_in_json(settings: Settings) -> None:
    answer = await preflight(settings, "https://evil.example")
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/json")
    assert answer.json() == {"detail": "Disallowed CORS origin"}
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_preflight_of_an_origin_of_the_setting_is_accepted(settings: Settings) -> None:
    answer = await preflight(settings, ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
