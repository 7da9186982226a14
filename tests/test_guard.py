"""What stands around any application: the size of a body, and errors that nobody foresaw."""

import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from hero_api.guard import Guard

LIMIT = 1_000  # bytes


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


async def test_a_fault_after_the_answer_began_is_logged_once_and_not_answered_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[str] = []

    async def begin_and_fail(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("amid the answer")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(LookupError):  # so that the server closes the connection
        await Guard(begin_and_fail, LIMIT)(scope, receive, send)
    assert sent == ["http.response.start"]
    assert len(caplog.records) <= 1
