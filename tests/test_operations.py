import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from hero_api.settings import Settings


@pytest.fixture
def other(client: httpx.AsyncClient, settings: Settings) -> Iterator[sqlite3.Connection]:
    """Return a connection to the running service's file, as another process has one."""
    assert client is not None
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as connection:
        yield connection


async def metrics(client: httpx.AsyncClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).text.splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in samples}


async def test_the_process_says_that_it_lives(client: httpx.AsyncClient) -> None:
    response = await client.get("/livez")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_the_service_is_ready_while_the_database_answers(client: httpx.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.sqlite
async def test_the_service_is_not_ready_while_another_process_holds_the_lock(
    client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    response = await client.get("/readyz")
    other.execute("ROLLBACK")
    assert response.status_code == 503
    assert isinstance(response.json()["detail"], str)
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.sqlite
async def test_the_process_says_that_it_lives_while_another_holds_the_lock(
    client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    response = await client.get("/livez")
    other.execute("ROLLBACK")
    assert response.status_code == 200


@pytest.mark.sqlite
async def test_the_service_is_ready_again_when_the_lock_is_free(
    client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    await client.get("/readyz")
    other.execute("ROLLBACK")
    assert (await client.get("/readyz")).status_code == 200


@pytest.mark.sqlite
async def test_heroes_are_read_while_another_process_holds_the_lock(
    client: httpx.AsyncClient, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    response = await client.get("/heroes/")
    other.execute("ROLLBACK")
    assert response.json() == []


async def test_metrics_count_what_each_lane_served(client: httpx.AsyncClient) -> None:
    heroes = [{"name": f"Hero {n}", "secret_name": "?"} for n in range(10)]
    await asyncio.gather(*(client.post("/heroes/", json=hero) for hero in heroes))
    await asyncio.gather(*(client.get(f"/heroes/{n}") for n in range(1, 8)))
    counted = await metrics(client)
    assert counted['hero_api_lane_items_total{lane="create"}'] == 10
    assert counted['hero_api_lane_items_total{lane="get"}'] == 7


async def test_metrics_show_that_a_batch_serves_many(client: httpx.AsyncClient) -> None:
    hero = {"name": "Deadpond", "secret_name": "Dive Wilson"}
    await asyncio.gather(*(client.post("/heroes/", json=hero) for _ in range(50)))
    counted = await metrics(client)
    assert 1 <= counted['hero_api_lane_batches_total{lane="create"}'] < 50


async def test_metrics_are_prometheus_text_with_a_type_for_every_family(
    client: httpx.AsyncClient,
) -> None:
    await client.get("/heroes/1")
    response = await client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    typed = {line.split()[2] for line in response.text.splitlines() if line.startswith("# TYPE")}
    assert {name.split("{")[0] for name in await metrics(client)} <= typed


async def test_metrics_are_answered_before_any_lane_was_used(client: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).status_code == 200
