"""HEAD is answered wherever GET is, with the same head."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running
from tests.servers import serving

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
PATHS = [
    "/heroes/",
    "/heroes/?limit=1&count=true",
    "/heroes/1",
    "/heroes/99",
    "/heroes/x",
    "/heroes/?limt=1",
    "/heroes",
    "/livez",
    "/readyz",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/nothing",
    "/included/things",
]
pytestmark = pytest.mark.sqlite


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    router = APIRouter()
    router.get("/things")(lambda: "things")
    app.include_router(router, prefix="/included")
    app.head("/own", include_in_schema=False)(lambda: Response(headers={"X-Own": "yes"}))
    async with running(app) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_the_head_of_get_and_no_body(client: httpx.AsyncClient, path: str) -> None:
    for _ in range(2):
        await client.post("/heroes/", json=HERO)
    head, get = await client.head(path), await client.get(path)
    assert (head.status_code, head.headers) == (get.status_code, get.headers)
    assert head.content == b""


async def test_a_handler_of_head_alone_is_asked(client: httpx.AsyncClient) -> None:
    assert (await client.head("/own")).headers["X-Own"] == "yes"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/heroes/1", "DELETE, GET, HEAD, PATCH"),
        ("/own", "HEAD"),
        ("/included/things", "GET, HEAD"),
        ("/static-offline-docs/swagger-ui.css", "GET, HEAD"),  # it is mounted
    ],
)
async def test_head_is_among_the_methods_that_are_allowed(
    client: httpx.AsyncClient, path: str, allowed: str
) -> None:
    answer = await client.put(path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


async def test_head_is_not_in_the_document(settings: Settings) -> None:
    app: FastAPI = create_app(settings)
    assert all("head" not in methods for methods in app.openapi()["paths"].values())


def test_no_body_is_sent_over_the_wire(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        serving(tmp_path_factory.mktemp("head")) as server,
        httpx.Client(base_url=f"http://{server.host}:{server.port}") as client,
    ):
        # A body would be taken for the answer to what comes next on the connection.
        for path in ("/livez", "/docs", "/nothing", "/heroes/"):
            assert client.head(path).status_code == client.get(path).status_code
