"""The fixtures, and the examples of their README, in test runs of their own."""

import re
from pathlib import Path

import pytest

import hero_api.testing
from tests.clusters import Cluster
from tests.servers import ROOT

README = Path(hero_api.testing.__file__).with_name("README.md")
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
FRESH, SHARED = [block for block in BLOCKS if block.startswith("# conftest.py")]
EXAMPLES = [block for block in BLOCKS if block not in {FRESH, SHARED}]
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


def run(
    pytester: pytest.Pytester, test: str, conftest: str = FRESH, scope: str = "function"
) -> None:
    """Run tests as somebody else would, and expect each to pass."""
    pytester.makeconftest(conftest)
    pytester.makeini(INI.format(scope=scope))
    pytester.makepyfile(test)
    ended = pytester.runpytest_subprocess(timeout=120)
    ended.assert_outcomes(passed=test.count("def test_"))


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_readme_passes(pytester: pytest.Pytester, example: str) -> None:
    run(pytester, example)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_readme_passes_on_postgresql(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, cluster: Cluster, example: str
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", cluster.new_schema())
    run(pytester, example, SHARED)


def test_the_example_of_the_projects_readme_passes(pytester: pytest.Pytester) -> None:
    section = (ROOT / "README.md").read_text().partition("\n## In your tests\n")[2]
    [example] = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    run(pytester, f"import pytest\n\n{example}")


@pytest.mark.parametrize("fixtures", ["function", "session"])
@pytest.mark.parametrize("tests", ["function", "session"])
def test_the_client_works_in_a_loop_of_any_scope(
    pytester: pytest.Pytester, fixtures: str, tests: str
) -> None:
    test = f"""
{STORES}
@pytest.mark.asyncio(loop_scope="{tests}")
async def test_heroes(heroes_client):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50

@pytest.mark.asyncio(loop_scope="{tests}")
async def test_heroes_again(heroes_client, hero_session):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50
"""
    run(pytester, test, scope=fixtures)


@pytest.mark.parametrize("uvloop", [True, False])
def test_the_client_works_in_tests_of_anyio(pytester: pytest.Pytester, *, uvloop: bool) -> None:
    test = f"""
{STORES}
@pytest.fixture
def anyio_backend():
    return "asyncio", {{"use_uvloop": {uvloop}}}

@pytest.mark.anyio
async def test_heroes(heroes_client):
    assert len({{answer.json()["id"] for answer in await store(heroes_client)}}) == 50
"""
    run(pytester, test)


def test_what_was_overridden_before_is_overridden_after_a_session_that_is_rolled_back(
    pytester: pytest.Pytester,
) -> None:
    test = """
import pytest
from hero_api.dependencies import get_read_session, get_write_session
from hero_api.testing import rolled_back

@pytest.mark.asyncio
async def test_overrides(hero_app, heroes_client):
    hero_app.dependency_overrides[get_read_session] = print
    with pytest.raises(LookupError):
        async with rolled_back(hero_app):
            assert hero_app.dependency_overrides[get_read_session] is not print
            raise LookupError
    assert hero_app.dependency_overrides == {get_read_session: print}
"""
    run(pytester, test)


def test_a_server_that_does_not_start_is_an_error() -> None:
    with (
        pytest.raises(RuntimeError, match="did not start"),
        hero_api.testing.serving({"database_url": "nonsense"}),
    ):
        pass
