"""Every error is answered in JSON; one that nobody foresaw is a 500, and one line of the log."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message

from hero_api.errors import NotFoundError
from hero_api.web.exception_handlers import add_exception_handlers

SOON = 10.0  # seconds: far more than anything here takes


def app() -> FastAPI:
    """Return an application that fails."""
    app = FastAPI()

    @app.get("/fault")
    async def fault() -> None:
        raise LookupError("nobody foresaw this")

    @app.get("/cause")
    async def cause() -> None:
        raise LookupError("nobody foresaw this") from NotFoundError("hero")

    @app.get("/refusal")
    async def refusal() -> None:
        raise HTTPException(418, "A teapot")

    @app.get("/lines")
    async def lines() -> None:
        raise LongError

    @app.get("/half")
    async def half() -> Response:
        return StreamingResponse(begin_and_fail(), headers={"Content-Length": "10"})

    @app.post("/length")
    async def length(request: Request) -> int:
        return len(await request.body())

    add_exception_handlers(app)
    return app


class LongError(Exception):
    def __repr__(self) -> str:
        return "first\nsecond\r\nthird\u2028fourth\x1b[2J"


async def begin_and_fail() -> AsyncIterator[bytes]:
    yield b"half "
    raise LookupError("amid the answer")


@pytest.fixture
def client() -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://hero-api")


async def test_a_fault_is_500_in_json_with_the_id_that_is_logged_once(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/fault")
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] in answer.json()["detail"]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("hero_api", logging.ERROR)
    assert answer.headers["X-Request-ID"] in record.getMessage()


async def test_the_log_names_the_error_and_what_it_was_raised_from(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/cause")).status_code == 500
    assert "Hero not found" in caplog.text
    assert "nobody foresaw this" in caplog.text


async def test_the_answer_does_not_say_what_the_log_says(client: httpx.AsyncClient) -> None:
    assert "nobody foresaw this" not in (await client.get("/fault")).text


async def test_a_fault_reaches_the_test_that_caused_it() -> None:
    transport = httpx.ASGITransport(app())
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        with pytest.raises(LookupError, match="nobody foresaw this"):
            await client.get("/fault")


async def test_a_refusal_passes_as_it_is(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/refusal")
    assert (answer.status_code, answer.json()) == (418, {"detail": "A teapot"})
    assert caplog.records == []


async def test_a_client_that_left_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        """Drop what nobody reads."""

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/length",
        "headers": [],
        "query_string": b"",
    }
    await app()(scope, receive, send)
    assert caplog.records == []


async def test_a_fault_of_many_lines_is_logged_in_one(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await client.get("/lines")).status_code == 500
    [record] = caplog.records
    assert "first" in record.getMessage()
    assert "fourth" in record.getMessage()
    assert record.getMessage().isprintable()
    assert not record.exc_info


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[int]:
    """Serve `app` on the loopback, as uvicorn does; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def test_a_fault_after_the_answer_began_is_logged_and_cuts_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with listening(app()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /half HTTP/1.1\r\nHost: hero-api\r\n\r\n")
        async with asyncio.timeout(SOON):
            content = await reader.read()  # until the server closes
        writer.close()
    assert content.count(b"HTTP/1.1 ") == 1
    assert content.endswith(b"\r\n\r\nhalf ")
    [line] = [record.getMessage() for record in caplog.records if record.name == "hero_api"]
    assert re.match(r"request [0-9a-f]{32}: GET '/half': .*amid the answer", line)
