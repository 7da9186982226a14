"""What stands around any application: the size of a body, and errors that nobody foresaw."""

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.guard import Guard

LIMIT = 1_000  # bytes
SOON = 10.0  # seconds: far more than anything here takes


def app() -> FastAPI:
    """Return an application that says how much it was sent, or fails."""
    app = FastAPI()

    @app.api_route("/size", methods=["GET", "POST", "PATCH", "PUT"])
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/unread")
    async def unread() -> str:
        return "unread"

    @app.get("/fault")
    async def fault() -> None:
        raise LookupError("nobody foresaw this")

    @app.get("/refusal")
    async def refusal() -> None:
        raise HTTPException(418, "A teapot")

    app.add_middleware(Guard, max_body_size=LIMIT)
    return app


@pytest.fixture
def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://hero-api")


async def in_chunks(*chunks: bytes) -> Any:  # noqa: ANN401 - an asynchronous iterator
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_body_within_the_limit_arrives_whole(
    client: httpx.AsyncClient, method: str, size: int
) -> None:
    answer = await client.request(method, "/size", content=b"x" * size)
    assert (answer.status_code, answer.json()) == (200, size)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_declared_body_over_the_limit_is_413_in_json(
    client: httpx.AsyncClient, method: str
) -> None:
    answer = await client.request(method, "/size", content=b"x" * (LIMIT + 1))
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/json")
    assert str(LIMIT) in answer.json()["detail"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_chunks_over_the_limit_are_413_in_json(
    client: httpx.AsyncClient, method: str
) -> None:
    content = in_chunks(b"x" * LIMIT, b"x")
    answer = await client.request(method, "/size", content=content)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/json")
    assert str(LIMIT) in answer.json()["detail"]


async def test_chunks_within_the_limit_arrive_whole(client: httpx.AsyncClient) -> None:
    content = in_chunks(b"x" * (LIMIT - 1), b"", b"x")
    assert (await client.post("/size", content=content)).json() == LIMIT


async def test_a_declared_body_over_the_limit_is_413_even_where_it_would_not_be_read(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/unread", content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413


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
    await Guard(leave, LIMIT)(scope, receive, send)
    assert caplog.records == []


async def test_what_is_not_http_passes_as_it_is() -> None:
    seen: list[str] = []

    async def note(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def receive() -> Message:
        return {}

    async def send(_message: Message) -> None:
        """Send nothing."""

    await Guard(note, LIMIT)({"type": "lifespan"}, receive, send)
    assert seen == ["lifespan"]


async def test_a_fault_of_many_lines_is_logged_in_one(caplog: pytest.LogCaptureFixture) -> None:
    class LongError(Exception):
        def __repr__(self) -> str:
            return "first\nsecond\r\nthird\u2028fourth\x1b[2J"

    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise LongError

    transport = httpx.ASGITransport(Guard(fail, LIMIT))
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
    async with listening(Guard(begin_and_fail, LIMIT)) as port:
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
        await Guard(answer, LIMIT)(scope, receive, send)
    assert caplog.records == []
