"""A pytest plugin: `pytest_plugins = ["hero_api.testing.fixtures"]` in the root `conftest.py`."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import rolled_back, running, serving

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


@pytest.fixture
def hero_settings(tmp_path: Path) -> Settings:
    """Return settings for a fresh SQLite file; override it for other ones."""
    return Settings(database_url=f"sqlite:///{tmp_path}/heroes.db", read_database_url=None)


@pytest.fixture
def hero_app(hero_settings: Settings) -> FastAPI:
    """Return the application that the clients speak to."""
    return create_app(hero_settings)


@pytest_asyncio.fixture
async def heroes_client(hero_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application in the test's event loop, and yield a client on it."""
    async with running(hero_app) as client:
        yield client


@pytest.fixture
def heroes_test_client(hero_app: FastAPI) -> Iterator["TestClient"]:
    """Run the application for a test that is not asynchronous, and yield a `TestClient` on it."""
    from fastapi.testclient import TestClient  # noqa: PLC0415 - it warns where httpx2 is missing

    with TestClient(hero_app) as client:
        yield client


@pytest_asyncio.fixture
async def hero_session(
    hero_app: FastAPI,
    heroes_client: httpx.AsyncClient,  # noqa: ARG001 - the application is running
) -> AsyncIterator[AsyncSession]:
    """Let the application work on this session; what is done on it is undone after the test."""
    async with rolled_back(hero_app) as session:
        yield session


@pytest.fixture(scope="session")
def hero_server_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Name the settings of the server, for a fresh SQLite file; override it for other ones."""
    return {"database_url": f"sqlite:///{tmp_path_factory.mktemp('server')}/heroes.db"}


@pytest.fixture(scope="session")
def hero_server(hero_server_settings: dict[str, object]) -> Iterator[str]:
    """Run `hero-api serve` for as long as the tests run, and yield its URL."""
    with serving(hero_server_settings) as url:
        yield url
