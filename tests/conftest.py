import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.settings import PREFIX, Settings
from hero_api.testing import running


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path}/heroes.db")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        yield client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.URL]:
    """Where `hero-api serve` listens, in a process of its own."""
    directory = tmp_path_factory.mktemp("server")
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    with (
        (directory / "stderr").open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "hero_api", "serve", "--port", "0"],
            env=environment | {"HERO_API_DATABASE_URL": f"sqlite:///{directory}/heroes.db"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            address = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert address is not None
            yield httpx.URL(address[0])
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            process.kill()
