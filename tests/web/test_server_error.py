"""An error that nobody foresaw is a 500 in JSON, and one line of the log."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.web.server_error import ServerErrorMiddleware

SOON = 10.0  # seconds: far more than anything here takes


def app() -> FastAPI:
    """Return an application that fails."""
    app = FastAPI()

    @app.get("/fault")
    async def fault() -> None:
        raise LookupError("nobody foresaw this")

    @app.get("/refusal")
    async def refusal() -> None:
        raise HTTPException(418, "A teapot")

    app.add_middleware(ServerErrorMiddleware)
    return app


@pytest.fixture
def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://hero-api")


async def test_a_fault_is_500_in_json_with_the_id_that_is_logged_once(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/fault")
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] in answer.json()["detail"]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("hero_api", logging.ERROR)
    assert answer.headers["X-Request-ID"] in record.getMessage()


async def test_a_fault_is_not_raised_again(client: httpx.AsyncClient) -> None:
    assert "nobody foresaw this" not in (await client.get("/fault")).text


async def test_a_refusal_passes_as_it_is(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/refusal")
    assert (answer.status_code, answer.json()) == (418, {"detail": "A teapot"})
    assert caplog.records == []


async def test_a_client_that_left_is_neither_answered_nor_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def leave(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ClientDisconnect

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(_message: Message) -> None:
        pytest.fail("nobody is left to answer")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await ServerErrorMiddleware(leave)(scope, receive, send)
    assert caplog.records == []


async def test_what_is_not_http_passes_as_it_is() -> None:
    seen: list[str] = []

    async def note(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None:
        """Send nothing."""

    await ServerErrorMiddleware(note)({"type": "lifespan"}, receive, send)
    assert seen == ["lifespan"]


async def test_a_fault_of_many_lines_is_logged_in_one(caplog: pytest.LogCaptureFixture) -> None:
    class LongError(Exception):
        def __repr__(self) -> str:
            return "first\nsecond\r\nthird\u2028fourth\x1b[2J"

    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise LongError

    transport = httpx.ASGITransport(ServerErrorMiddleware(fail))
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        assert (await client.get("/")).status_code == 500
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


async def test_a_fault_after_the_answer_began_is_logged_without_a_traceback_and_cuts_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def begin_and_fail(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half ", "more_body": True})
        raise LookupError("amid the answer")

    caplog.set_level(logging.ERROR)
    async with listening(ServerErrorMiddleware(begin_and_fail)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /half HTTP/1.1\r\nHost: hero-api\r\n\r\n")
        async with asyncio.timeout(SOON):
            content = await reader.read()  # until the server closes
        writer.close()
    assert content.count(b"HTTP/1.1 ") == 1
    assert content.endswith(b"\r\n\r\nhalf ")
    [line] = [record.getMessage() for record in caplog.records if record.name == "hero_api"]
    assert re.match(r"request [0-9a-f]{32}: GET '/half': .*amid the answer", line)
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_answer_that_cannot_be_sent_is_the_servers_matter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("hello")(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_message: Message) -> None:
        raise RuntimeError("the client has left")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError, match="the client has left"):
        await ServerErrorMiddleware(answer)(scope, receive, send)
    assert caplog.records == []
