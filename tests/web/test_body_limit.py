"""A body that is too large is a 413, whatever the method."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from hero_api.web.body_limit import BodyLimitMiddleware

LIMIT = 1_000  # bytes
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "REPORT"]


@pytest.fixture
def client() -> httpx.AsyncClient:
    """Return a client of an application that says how much it was sent."""
    app = FastAPI()

    @app.api_route("/size", methods=METHODS)
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/unread")
    async def unread() -> str:
        return "unread"

    app.add_middleware(BodyLimitMiddleware, max_body_size=LIMIT)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hero-api")


async def in_chunks(*chunks: bytes) -> Any:  # noqa: ANN401 - an asynchronous iterator
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [0, 1, LIMIT])
async def test_a_body_within_the_limit_arrives_whole(
    client: httpx.AsyncClient, method: str, size: int
) -> None:
    answer = await client.request(method, "/size", content=b"x" * size)
    assert (answer.status_code, answer.json()) == (200, size)


@pytest.mark.parametrize("method", METHODS)
async def test_a_declared_body_over_the_limit_is_413_in_json(
    client: httpx.AsyncClient, method: str
) -> None:
    answer = await client.request(method, "/size", content=b"x" * (LIMIT + 1))
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/json")
    assert str(LIMIT) in answer.json()["detail"]


@pytest.mark.parametrize("method", METHODS)
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


@pytest.mark.parametrize(("other", "size"), [(LIMIT // 2, LIMIT), (2 * LIMIT, 2 * LIMIT + 1)])
@pytest.mark.parametrize("is_declared", [True, False])
async def test_a_body_of_another_type_has_a_limit_of_its_own_be_it_less_or_more(
    other: int, size: int, *, is_declared: bool
) -> None:
    app = FastAPI()

    @app.post("/size")
    async def length(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(BodyLimitMiddleware, max_body_size=LIMIT, by_type={"text/other": other})
    transport = httpx.ASGITransport(app)
    headers = {"Content-Type": "text/other; charset=utf-8"}
    async with httpx.AsyncClient(transport=transport, base_url="http://hero-api") as client:
        for length_sent, status in (other, 200), (size, 413):
            content = b"x" * length_sent
            body = content if is_declared else in_chunks(content)
            answer = await client.post("/size", content=body, headers=headers)
            assert answer.status_code == status
