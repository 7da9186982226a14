"""Under a prefix, however that is said, whatever leads to another page has it."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.errors import StartError
from hero_api.settings import Settings

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
pytestmark = pytest.mark.sqlite


@asynccontextmanager
async def by_setting(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings.model_copy(update={"root_path": "/api"}))
    async with app.router.lifespan_context(app), asking(httpx.ASGITransport(app)) as client:
        yield client


@asynccontextmanager
async def by_server(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)

    async def under_a_prefix(scope: dict[str, object], *channels: object) -> None:
        # As `uvicorn --root-path` does.
        scope = {**scope, "root_path": "/api", "path": f"/api{scope['path']}"}
        await app(scope, *channels)  # type: ignore[arg-type]

    transport = httpx.ASGITransport(under_a_prefix)  # type: ignore[arg-type]
    async with app.router.lifespan_context(app), asking(transport) as client:
        yield client


@asynccontextmanager
async def by_transport(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    transport = httpx.ASGITransport(app, root_path="/api")
    async with app.router.lifespan_context(app), asking(transport) as client:
        yield client


@asynccontextmanager
async def mounted(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app, outer = create_app(settings), FastAPI()
    outer.mount("/api", app)
    async with app.router.lifespan_context(app), asking(httpx.ASGITransport(outer)) as client:
        client.base_url = httpx.URL("http://hero-api/api/")
        yield client


def asking(transport: httpx.ASGITransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url="http://hero-api")


@pytest.fixture(params=[by_setting, by_server, by_transport, mounted])
async def client(
    request: pytest.FixtureRequest, settings: Settings
) -> AsyncIterator[httpx.AsyncClient]:
    under_a_prefix: Callable[[Settings], asynccontextmanager[httpx.AsyncClient]] = request.param  # type: ignore[valid-type]
    async with under_a_prefix(settings) as client:  # type: ignore[attr-defined]
        yield client


async def test_a_created_hero_is_where_its_location_says(client: httpx.AsyncClient) -> None:
    assert (await client.post("/heroes/", json=HERO)).headers["Location"] == "/api/heroes/1"


async def test_a_page_links_to_the_next(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/heroes/", json=HERO)
    link = (await client.get("/heroes/?limit=1")).links["next"]["url"]
    assert link == "/api/heroes/?limit=1&after=1"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/heroes", "/api/heroes/"),
        ("/heroes?limit=1&name=%20%2F", "/api/heroes/?limit=1&name=%20%2F"),
        ("/heroes/5/", "/api/heroes/5"),
        ("/docs/", "/api/docs"),
    ],
)
async def test_a_redirect_is_relative_to_the_host(
    client: httpx.AsyncClient, target: str, location: str
) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    answer = await client.get(target, headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (307, location)


@pytest.mark.parametrize("path", ["", "/docs/oauth2-redirect"])
async def test_there_is_no_page_for_oauth2(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(str(client.base_url).rstrip("/") + path)
    assert not answer.is_success


async def test_the_documentation_asks_for_the_document_under_the_prefix(
    client: httpx.AsyncClient,
) -> None:
    page = (await client.get("/docs")).text
    assert "'/api/openapi.json'" in page
    assert set(re.findall(r"'/(\w+)", page)) == {"api"}  # and for nothing else
    assert (await client.get("/openapi.json")).json()["servers"][0] == {"url": "/api"}


@pytest.mark.parametrize("header", ["/evil", "//evil.example"])
async def test_a_forwarded_prefix_does_not_count(client: httpx.AsyncClient, header: str) -> None:
    headers = {"X-Forwarded-Prefix": header}
    answer = await client.post("/heroes/", json=HERO, headers=headers)
    assert answer.headers["Location"] == "/api/heroes/1"


async def test_a_path_that_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nothing")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("tenant", ["a%0DX-Evil:%201", "%2F%2Fevil.example", "%C3%A9"])
async def test_a_prefix_of_the_clients_making_stays_a_path(settings: Settings, tenant: str) -> None:
    app, outer = create_app(settings), FastAPI()
    outer.mount("/{tenant:path}/x", app)
    transport = httpx.ASGITransport(outer)
    async with app.router.lifespan_context(app), asking(transport) as client:
        answer = await client.post(f"/{tenant}/x/heroes/", json=HERO)
        redirect = await client.get(f"/{tenant}/x/heroes")
    location = answer.headers["Location"]
    assert location.endswith("/x/heroes/1")
    assert location.isprintable()
    assert not location.startswith("//")
    assert redirect.headers["Location"] == location.removesuffix("1")


async def test_a_redirect_does_not_lead_to_another_host(settings: Settings) -> None:
    app = create_app(settings)
    app.get("/{rest:path}/there/")(lambda rest: rest)
    transport = httpx.ASGITransport(app)
    async with asking(transport) as client:
        answer = await client.get("http://hero-api//evil.example/there")
    assert answer.headers["Location"] == "/evil.example/there/"


@pytest.mark.parametrize("path", ["api", "/api/", "//evil.example", "/a?b", "/a b", "/"])
def test_a_setting_that_is_no_prefix_stops_the_start(settings: Settings, path: str) -> None:
    with pytest.raises(StartError, match="HERO_API_ROOT_PATH"):
        Settings(database_url=settings.database_url, root_path=path)
