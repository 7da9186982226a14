"""The fixtures, and the examples of their README, in test runs of their own.

Such a run takes a moment to begin, so that it has all the tests that go together.
"""

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import hero_api.testing
from hero_api.dependencies import get_read_session
from tests import command
from tests.clusters import Cluster
from tests.servers import ROOT

README = Path(hero_api.testing.__file__).with_name("README.md")
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
FRESH, SHARED = [block for block in BLOCKS if block.startswith("# conftest.py")]
EXAMPLES = {
    f"example_{number}": block
    for number, block in enumerate(BLOCKS)
    if block not in {FRESH, SHARED}
}
INI = """
[pytest]
asyncio_default_fixture_loop_scope = {scope}
filterwarnings = error
"""
STORES = """
import asyncio
import pytest

def heroes():
    return [{"name": str(n), "secret_name": "?"} for n in range(50)]

async def store(client):
    return await asyncio.gather(*(client.post("/heroes/", json=hero) for hero in heroes()))
"""


@pytest.fixture(autouse=True)
def _plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs have the plugins that they use: to import all that are here takes longer."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(
    pytester: pytest.Pytester,
    conftest: str = FRESH,
    scope: str = "function",
    **tests: str,
) -> None:
    """Run tests as somebody else would, and expect each to pass."""
    pytester.makeconftest(conftest)
    pytester.makeini(INI.format(scope=scope))
    pytester.makepyfile(**{f"test_{name}": test for name, test in tests.items()})
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin")
    path = str(pytester.path)
    ended = command.run("--rootdir", path, *plugins, path, program=("-m", "pytest"))
    outcomes = pytest.RunResult.parse_summary_nouns(ended.stdout.splitlines())
    passed = sum(test.count("def test_") for test in tests.values())
    assert outcomes == {"passed": passed}, ended.stdout + ended.stderr


def test_the_examples_of_the_readmes_pass(pytester: pytest.Pytester) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## In your tests\n")[2]
    [example] = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    run(pytester, **EXAMPLES, of_the_project=f"import pytest\n\n{example}")


def test_the_examples_of_the_readme_pass_on_postgresql(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", cluster.new_schema())
    run(pytester, SHARED, **EXAMPLES)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_the_client_works_in_a_loop_of_any_scope_and_in_tests_of_anyio(
    pytester: pytest.Pytester, scope: str
) -> None:
    loops = {
        f"in_a_loop_of_the_{scope}": f"""
{STORES}
@pytest.mark.asyncio(loop_scope="{scope}")
async def test_heroes(heroes_client):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50

@pytest.mark.asyncio(loop_scope="{scope}")
async def test_heroes_again(heroes_client, hero_session):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50
"""
        for scope in ("function", "session")
    }
    anyio = {
        f"in_anyio_on_{name}": f"""
{STORES}
@pytest.fixture
def anyio_backend():
    return "asyncio", {{"use_uvloop": {name == "uvloop"}}}

@pytest.mark.anyio
async def test_heroes(heroes_client):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50
"""
        for name in ("asyncio", "uvloop")
    }
    run(pytester, scope=scope, **loops, **anyio)


async def test_what_was_overridden_before_is_overridden_after_a_session_that_is_rolled_back(
    hero_app: FastAPI,
    heroes_client: httpx.AsyncClient,  # noqa: ARG001 - the application is running
) -> None:
    async def fail() -> None:
        async with hero_api.testing.rolled_back(hero_app):
            assert hero_app.dependency_overrides[get_read_session] is not print
            raise LookupError

    hero_app.dependency_overrides[get_read_session] = print
    with pytest.raises(LookupError):
        await fail()
    assert hero_app.dependency_overrides == {get_read_session: print}


def test_a_server_takes_settings_of_any_type(tmp_path: Path) -> None:
    origin = "https://heroes.example"
    settings = {
        "database_url": f"sqlite:///{tmp_path}/heroes.db",
        "cors_origins": [origin],
        "read_database_url": None,
        "telemetry": False,
        "request_timeout": 2.5,
    }
    with hero_api.testing.serving(settings) as url:
        answer = httpx.get(f"{url}/livez", headers={"Origin": origin})
    assert answer.headers["Access-Control-Allow-Origin"] == origin


def test_a_server_that_does_not_start_is_an_error() -> None:
    with (
        pytest.raises(RuntimeError, match="did not start"),
        hero_api.testing.serving({"database_url": "nonsense"}),
    ):
        pass
