import gc
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hero_api.app import create_app
from hero_api.settings import PREFIX, Settings
from hero_api.testing import running

from .clusters import MISSING, Cluster, has_postgresql, running_cluster

pytest_plugins = ["hero_api.testing.fixtures", "pytester"]

# Where it is set, as in containers, each server that a test starts compiles the service anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# By these Typer and Rich write as on a terminal, wherever it goes.
for _name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
    os.environ.pop(_name, None)

if find_spec("sniffio") is None:
    # httpx tries to import it at each request, and looks along the whole path.
    sys.modules["sniffio"] = None  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    parser.addoption("--seed", type=int, help="where the random choices of tests start from")
    if not pluginmanager.hasplugin("xdist"):  # pyproject.toml sets these, which are its own
        for option in ("--dist", "--numprocesses"):
            parser.addoption(option, help="of no effect without pytest-xdist")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run all of the tests in parallel, and some of them in this process."""
    some = (
        config.args != config.getini("testpaths")
        or config.getoption("keyword")
        or config.getoption("lf", default=False)
    )
    # More than there are cores: tests wait for servers and for time-outs.
    return 0 if some else 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is imported and collected, which stays, out of each garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes settings on both engines, unless it is marked `sqlite`."""
    if "settings" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("sqlite") is None
        metafunc.parametrize(
            "settings", ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True
        )


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return a number that random choices start from; pytest shows it when the test fails."""
    given: int | None = request.config.getoption("--seed")
    seed = random.randrange(2**32) if given is None else given
    print(f"--seed {seed}")  # noqa: T201
    return seed


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server, for as long as the tests run."""
    if not has_postgresql():
        pytest.skip(MISSING)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings for a database that is the test's own: a file, or a schema of the cluster's."""
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        return Settings(database_url=cluster.new_schema())
    return Settings(database_url=f"sqlite:///{tmp_path}/heroes.db")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app) as client:
        yield client


@pytest.fixture(scope="session")
def server(hero_server: str) -> httpx.URL:
    """Where `hero-api serve` listens, in a process of its own."""
    return httpx.URL(hero_server)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that an unprivileged user can get at."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)
