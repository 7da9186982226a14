"""The pages that document the service, in a browser that reaches nothing but the service."""

import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Page, Route, async_playwright, expect

from hero_api.app import create_app
from hero_api.settings import Settings
from tests.servers import serving

CHROMIUM = shutil.which("chromium")
MOUNTED = """
import socket
from contextlib import asynccontextmanager
import uvicorn
from fastapi import FastAPI
from hero_api.main import app

@asynccontextmanager
async def lifespan(_):
    async with app.router.lifespan_context(app):
        yield

outer = FastAPI(lifespan=lifespan)
outer.mount("/api", app)
with socket.create_server(("127.0.0.1", 0)) as listening:
    print("http://127.0.0.1:%d" % listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(outer)).run([listening])
"""
PROGRAMS = {"": ("-m", "hero_api", "serve", "--port", "0"), "/api": ("-c", MOUNTED)}
# ReDoc's mark, which it does without.
MARK = "https://cdn.redoc.ly/redoc/logo-mini.svg"
ROUTES = {
    (method.upper(), path)
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method in methods
}


@pytest.fixture(scope="module", params=PROGRAMS.keys(), ids=["served", "mounted"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service is: by itself, and mounted in another application."""
    directory = tmp_path_factory.mktemp("documented")
    with serving(directory, program=PROGRAMS[request.param]) as server:
        yield f"http://{server.host}:{server.port}{request.param}"


@pytest.fixture
async def page(url: str, tmp_path: Path) -> AsyncIterator[Page]:
    """A page of a browser, which asked nobody but the service, and nothing that is not there."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing; on Debian: apt-get install chromium")
    others = []
    missing = []

    async def only_the_service(route: Route) -> None:
        if urlsplit(route.request.url).netloc == urlsplit(url).netloc:
            await route.continue_()
        else:
            others.append(route.request.url)
            await route.abort()

    async with async_playwright() as playwright:
        # Not in the home directory, where a container may have nothing to write to.
        context = await playwright.chromium.launch_persistent_context(
            tmp_path, executable_path=CHROMIUM, args=["--disable-background-networking"]
        )
        await context.route("**/*", only_the_service)
        page = await context.new_page()
        page.on("response", lambda answer: missing.append(answer) if not answer.ok else None)
        yield page
        await context.close()
    assert {*others} <= {MARK}
    assert missing == []


async def test_swagger_ui_shows_each_route_and_tries_one_out(page: Page, url: str) -> None:
    await page.goto(f"{url}/docs")
    operations = page.locator(".opblock")
    await expect(operations).to_have_count(len(ROUTES))
    shown = {
        (
            await each.locator(".opblock-summary-method").inner_text(),
            # Which it lets a browser break anywhere, by spaces without a width.
            (await each.locator(".opblock-summary-path").inner_text()).replace("\u200b", ""),
        )
        for each in await operations.all()
    }
    assert shown == ROUTES
    create = page.locator("#operations-heroes-" + await operation(url, "/heroes/", "post"))
    await create.locator(".opblock-summary").click()
    await create.get_by_role("button", name="Try it out").click()
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    await create.locator("textarea").fill(json.dumps(hero))
    async with page.expect_response(re.compile(r"/heroes/$")) as answered:
        await create.get_by_role("button", name="Execute").click()
    answer = await answered.value
    await expect(
        create.locator(".live-responses-table .response .response-col_status").first
    ).to_contain_text("200")
    async with httpx.AsyncClient() as client:
        stored = await client.get(f"{url}/heroes/{(await answer.json())['id']}")
    assert stored.json() == await answer.json() == {**hero, "id": stored.json()["id"], "age": None}


async def test_redoc_shows_each_route(page: Page, url: str) -> None:
    await page.goto(f"{url}/redoc")
    headings = page.locator("[data-section-id^='tag/'] h2")
    await expect(headings).to_have_count(len(ROUTES) + len({"heroes", "operations"}))


async def operation(url: str, path: str, method: str) -> str:
    """Return the id that the document gives an operation."""
    async with httpx.AsyncClient() as client:
        document = (await client.get(f"{url}/openapi.json")).json()
    operation_id: str = document["paths"][path][method]["operationId"]
    return operation_id


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_without_a_browser_all_that_a_page_names_is_there(url: str, path: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        page = (await client.get(f"{url}{path}")).text
        named = re.findall(r"""(?:src|href|url)(?:=|: )["']([^"']+)["']""", page)
        named += re.findall(r'spec-url="([^"]+)"', page)
        assert named
        for name in named:
            answer = await client.get(httpx.URL(f"{url}{path}").join(name))
            assert (answer.url.netloc, answer.status_code) == (httpx.URL(url).netloc, 200), name
