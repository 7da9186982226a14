import asyncio
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
LARGE = b"?" * 300_000
NO_PROMTOOL = "needs the program `promtool` (Debian: apt-get install prometheus)"

# Requests, and how each is counted.
REQUESTS: dict[str, tuple[Sequence[Any], tuple[str, str, int]]] = {
    "created": (("POST", "/heroes/", HERO), ("/heroes/", "POST", 200)),
    "read": (("GET", "/heroes/1"), ("/heroes/{hero_id}", "GET", 200)),
    "listed": (("GET", "/heroes/?limit=1"), ("/heroes/", "GET", 200)),
    "asked for its head": (("HEAD", "/heroes/1"), ("/heroes/{hero_id}", "HEAD", 200)),
    "not found": (("GET", "/heroes/7"), ("/heroes/{hero_id}", "GET", 404)),
    "not allowed": (("PUT", "/heroes/7"), ("/heroes/{hero_id}", "PUT", 405)),
    "not valid": (("GET", "/heroes/x"), ("/heroes/{hero_id}", "GET", 422)),
    "a body that is too large": (("POST", "/heroes/", LARGE), ("none", "POST", 413)),
    "of no route": (("GET", "/villains/7"), ("none", "GET", 404)),
    "sent elsewhere": (("GET", "/heroes"), ("none", "GET", 307)),
    "a method that nobody knows": (("AVENGE", "/heroes/7"), ("/heroes/{hero_id}", "other", 405)),
    "a probe": (("GET", "/livez"), ("/livez", "GET", 200)),
    "the documentation": (("GET", "/docs"), ("/docs", "GET", 200)),
    "a file of it": (("GET", "/static-offline-docs/favicon.png"), ("none", "GET", 200)),
    "a proxy's probe": (("OPTIONS", "/"), ("/", "OPTIONS", 204)),
}


async def ask(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> int:  # noqa: ANN401
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return (await client.request(method, path, **content)).status_code


async def samples(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def requests(route: str, method: str, status: int) -> str:
    return f'hero_api_requests_total{{method="{method}",route="{route}",status="{status}"}}'


@pytest.mark.sqlite
@pytest.mark.parametrize(("asked", "counted"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_request_is_counted_by_route_method_and_status(
    client: httpx.AsyncClient, asked: Sequence[Any], counted: tuple[str, str, int]
) -> None:
    await client.post("/heroes/", json=HERO)
    before = await samples(client)
    assert await ask(client, *asked) == counted[-1]
    after = await samples(client)
    assert after[requests(*counted)] == before[requests(*counted)] + 1


async def test_a_request_is_counted_by_its_route_under_a_prefix_too(settings: Settings) -> None:
    async with running(create_app(settings.model_copy(update={"root_path": "/api"}))) as client:
        await client.post("/heroes/", json=HERO)
        assert (await samples(client))[requests("/heroes/", "POST", 200)] == 1


async def test_every_series_is_there_from_the_start(client: httpx.AsyncClient) -> None:
    at_the_start = (await samples(client)).keys()
    for asked, _ in REQUESTS.values():
        await ask(client, *asked)
    await client.get("/readyz")
    assert (await samples(client)).keys() == at_the_start


async def test_the_series_of_preflights_are_there_from_the_start(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"cors_origins": ["https://heroes.example"]}))
    async with running(app) as client:
        at_the_start = (await samples(client)).keys()
        for origin, status in (("https://heroes.example", 200), ("https://other.example", 400)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            answer = await client.options("/heroes/", headers=headers)
            assert answer.status_code == status
        assert (await samples(client)).keys() == at_the_start


async def test_clients_cannot_make_series_up(client: httpx.AsyncClient) -> None:
    series = len(await samples(client))
    for number in range(20):
        await ask(client, f"M{number}", f"/{number}")
        await ask(client, f"M{number}", f"/heroes/{number}")
    assert len(await samples(client)) == series


async def test_an_error_that_nobody_foresaw_is_counted_as_a_500(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async with running(app, raise_app_exceptions=False) as client:
        assert (await client.get("/broken")).status_code == 500
        assert (await samples(client))[requests("/broken", "GET", 500)] == 1


async def test_an_answer_that_breaks_off_is_counted_once(app: FastAPI) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"some"
        raise RuntimeError

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        return StreamingResponse(parts())

    async with running(app, raise_app_exceptions=False) as client:
        await client.get("/broken")
        counted = await samples(client)
        assert counted[requests("/broken", "GET", 200)] == 1
        assert counted[requests("/broken", "GET", 500)] == 0


async def test_a_503_is_counted_by_its_reason(app: FastAPI, client: httpx.AsyncClient) -> None:
    app.state.draining = True
    assert (await client.get("/readyz")).status_code == 503
    counted = await samples(client)
    assert counted['hero_api_unavailable_total{reason="Closing"}'] == 1
    assert counted['hero_api_unavailable_total{reason="Overloaded"}'] == 0


async def test_the_time_of_each_request_is_in_the_histogram_of_its_route(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(3):
        await client.get("/heroes/1")
    counted = await samples(client)
    of_gets = 'method="GET",route="/heroes/{hero_id}"'
    assert counted[f"hero_api_request_seconds_count{{{of_gets}}}"] == 3
    assert counted[f'hero_api_request_seconds_bucket{{le="+Inf",{of_gets}}}'] == 3
    assert counted[f"hero_api_request_seconds_sum{{{of_gets}}}"] > 0


async def test_each_queue_has_how_many_calls_its_batches_served(client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.post("/heroes/", json=HERO) for _ in range(50)))
    await asyncio.gather(*(client.get(f"/heroes/{n}") for n in range(1, 8)))
    counted = await samples(client)
    assert counted['hero_api_queue_batch_items_sum{queue="write"}'] == 50
    assert 1 <= counted['hero_api_queue_batch_items_count{queue="write"}'] < 50
    assert counted['hero_api_queue_batch_items_sum{queue="get_hero"}'] == 7


async def test_each_queue_has_how_long_its_calls_waited(client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(client.post("/heroes/", json=HERO) for _ in range(5)))
    counted = await samples(client)
    assert counted['hero_api_queue_wait_seconds_count{queue="write"}'] == 5
    assert 0 <= counted['hero_api_queue_wait_seconds_sum{queue="write"}'] < 5 * 30


async def test_each_commit_is_timed(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await client.post("/heroes/", json=HERO)
    await client.get("/heroes/1")
    counted = await samples(client)
    assert counted['hero_api_commit_seconds_count{queue="write"}'] == 3
    assert 'hero_api_commit_seconds_count{queue="get_hero"}' not in counted


@pytest.mark.sqlite
async def test_the_size_of_the_write_ahead_log_is_told(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await client.post("/heroes/", json=HERO)
    wal = settings.path.with_name(f"{settings.path.name}-wal")
    assert (await samples(client))["hero_api_wal_bytes"] == wal.stat().st_size > 0


async def test_the_process_and_its_versions_are_told(client: httpx.AsyncClient) -> None:
    counted = await samples(client)
    assert counted["process_resident_memory_bytes"] > 1_000_000
    assert counted["process_cpu_seconds_total"] > 0
    assert 0 < counted["process_open_fds"] < counted["process_max_fds"]
    [build] = [name for name in counted if name.startswith("hero_api_build_info")]
    assert 'hero_api="1.0.0"' in build


async def test_two_applications_count_apart(settings: Settings) -> None:
    async with running(create_app(settings)) as one, running(create_app(settings)) as other:
        await one.get("/heroes/1")
        name = requests("/heroes/{hero_id}", "GET", 404)
        assert (await samples(one))[name] == 1
        assert (await samples(other))[name] == 0


async def test_a_worker_of_several_names_itself_in_every_series(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    app.state.metrics.worker = "4711"
    for _ in range(2):
        counted = await samples(client)
        assert all('worker="4711"' in name for name in counted)
        assert counted['hero_api_queue_waiting{queue="write",worker="4711"}'] == 0


async def test_metrics_are_in_prometheus_text_format(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = [*text_string_to_metric_families(response.text)]
    assert all(family.type != "unknown" and family.documentation for family in families)


async def test_metrics_are_in_openmetrics_for_who_asks_for_it(client: httpx.AsyncClient) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = await client.get("/metrics", headers=accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.headers["Vary"] == "Accept"
    assert response.text.endswith("# EOF\n")


@pytest.mark.skipif(not shutil.which("promtool"), reason=NO_PROMTOOL)
async def test_prometheus_own_tool_finds_nothing_to_complain_of(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    tool = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"), stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await tool.communicate(text.encode())
    assert (said, tool.returncode) == (b"", 0)
