import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from hero_api.server.logs import JSONFormatter
from hero_api.web.access_log import AccessLogMiddleware

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
KEPT = {
    "an id": ({"X-Request-ID": "order-7"}, "order-7"),
    "a trace": ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
}
NOT_KEPT = {
    "none": {},
    "forged": {"X-Request-ID": "7 GET /heroes/1 200"},
    "long": {"X-Request-ID": "7" * 129},
    "empty": {"X-Request-ID": ""},
    "no trace": {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
    "of no version": {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
}


@pytest.fixture
async def client(caplog: pytest.LogCaptureFixture) -> AsyncIterator[httpx.AsyncClient]:
    caplog.set_level(logging.INFO, "hero_api.access")
    app = FastAPI()
    app.get("/heroes/{name}")(lambda name: name)
    transport = httpx.ASGITransport(AccessLogMiddleware(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        yield client


@pytest.mark.parametrize(("headers", "identity"), KEPT.values(), ids=KEPT.keys())
async def test_the_id_that_a_request_came_with_stands_in_its_line_and_goes_out(
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    identity: str,
) -> None:
    response = await client.get("/heroes/1", headers=headers)
    assert response.headers["X-Request-ID"] == identity
    assert caplog.messages[-1].startswith("127.0.0.1 GET /heroes/1 200 ")
    assert caplog.messages[-1].endswith(f" {identity}")


@pytest.mark.parametrize("headers", NOT_KEPT.values(), ids=NOT_KEPT.keys())
async def test_a_request_without_a_good_id_gets_one(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    identity = (await client.get("/heroes/1", headers=headers)).headers["X-Request-ID"]
    assert len(identity) == 32
    assert identity != TRACE
    assert caplog.messages[-1].endswith(f" {identity}")


async def test_a_path_with_a_line_break_is_one_line(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/heroes/1%0A127.0.0.1%20DELETE")
    assert " /heroes/1%0A127.0.0.1%20DELETE 200 " in caplog.messages[-1]
    assert "\n" not in caplog.messages[-1]


async def test_whatever_a_proxy_takes_for_the_client_is_one_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hero_api.access")
    app = AccessLogMiddleware(FastAPI())
    for name, word in (("::1 PUT \x9b", "::1%20PUT%20%C2%9B"), ("2001:db8::1", "2001:db8::1")):
        transport = httpx.ASGITransport(app, client=(name, 0))
        async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
            await client.get("/heroes/1")
        assert caplog.messages[-1].startswith(f"{word} GET /heroes/1 404 ")


async def test_a_line_of_json_has_each_part_by_its_name(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/villains/1", headers={"X-Request-ID": "7"})
    line = json.loads(JSONFormatter().format(caplog.records[-1]))
    expected = {"method": "GET", "path": "/villains/1", "status": 404, "request_id": "7"}
    assert line.items() >= expected.items()
    assert line["seconds"] > 0
    assert {"time", "level", "client"} <= line.keys()
