"""The README's "Add a field", followed on a copy of the tree."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running

from .clusters import Cluster
from .servers import ROOT

USED = """
import asyncio, json, sys

import hero_api
from hero_api.app import create_app
from hero_api.commands.copy import copy
from hero_api.commands.progress import Progress
from hero_api.commands.upgrade import upgrade
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running

TEAMS = ("Avengers", "X-Men", None)

def sent(number):
    return {"name": f"Hero {number}", "secret_name": "?", "team": TEAMS[number % 3]}

async def listed(client, **query):
    answer = await client.get("/heroes/", params=query)
    return answer.json()

async def use(url):
    "Create heroes together, list those of a team, and patch two."
    async with running(create_app(Settings(database_url=url))) as client:
        creates = (client.post("/heroes/", json=sent(number)) for number in range(60))
        answers = [answer.json() for answer in await asyncio.gather(*creates)]
        team = await listed(client, team="X-Men")
        moved = await client.patch("/heroes/1", json={"team": "Defenders"})
        left = await client.patch("/heroes/2", json={"team": None})
        return {
            "own": [{**hero, "id": 0} == {**sent(n), "age": None, "id": 0}
                    for n, hero in enumerate(answers)],
            "keys": sorted(answers[0]),
            "listed": sorted(hero["name"] for hero in team),
            "patched": [moved.json()["team"], left.json()["team"]],
            "defenders": [hero["id"] for hero in await listed(client, team="Defenders")],
        }

async def all_of(url):
    async with running(create_app(Settings(database_url=url))) as client:
        return await listed(client)

def move(source, target):
    "Use one, and copy it; return what use says, and what both have."
    used = asyncio.run(use(source))
    with Progress() as progress:
        copy(Settings(database_url=source), Settings(database_url=target), heroes.table, progress)
    return {"used": used, "heroes": [asyncio.run(all_of(url)) for url in (source, target)]}

def add(url):
    "Upgrade; return what the start says before, what was added, the heroes, and what use says."
    try:
        asyncio.run(all_of(url))
    except StartError as error:
        refusal = str(error)
    lines = upgrade(Settings(database_url=url), [heroes.table])
    seen = {"refusal": refusal, "lines": lines, "heroes": asyncio.run(all_of(url))}
    return seen | {"used": asyncio.run(use(url))}

action, *urls = sys.argv[1:]
print(json.dumps({"file": hero_api.__file__, "seen": {"move": move, "add": add}[action](*urls)}))
"""


@dataclass
class Edit:
    """Lines that are added behind others in a file, as a block of the README shows them."""

    file: str
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def edits() -> list[Edit]:
    section = (ROOT / "README.md").read_text().partition("\n## Add a field\n")[2]
    block = section.partition("\n## ")[0].partition("```diff\n")[2].partition("```")[0]
    found: list[Edit] = []
    file = ""
    for line in block.splitlines():
        if line.startswith("---"):
            file = line.removeprefix("---").strip()
        elif line.startswith("@@"):
            found.append(Edit(file))
        else:
            found[-1].after.append(line[1:])
            if not line.startswith("+"):
                found[-1].before.append(line[1:])
    return found


def run(action: str, *urls: str, tree: Path) -> Any:  # noqa: ANN401 - it was JSON
    """Run the copy of the tree, which takes a second to begin; return what it has seen."""
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", USED, action, *urls],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    said = json.loads(completed.stdout)
    assert Path(said["file"]).is_relative_to(tree)
    return said["seen"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the field."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hero_api", tree / "hero_api", ignore=ignored)
    for edit in edits():
        path = tree / edit.file
        before, after = (
            "".join(f"{line}\n" for line in each) for each in (edit.before, edit.after)
        )
        assert path.read_text().count(before) == 1, f"{edit} of the README is not in the code"
        path.write_text(path.read_text().replace(before, after))
    return tree


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[str]:
    return (f"sqlite:///{tmp_path}/heroes_{number}.db" for number in range(9))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, urls: Iterator[str]) -> str:
    """A database that nobody used before."""
    if request.param == "sqlite":
        return next(urls)
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.new_schema()


@pytest.fixture(params=["sqlite-to-postgresql", "postgresql-to-sqlite"])
def ends(request: pytest.FixtureRequest, urls: Iterator[str], cluster: Cluster) -> list[str]:
    both = [next(urls), cluster.new_schema()]
    return both if request.param.startswith("sqlite") else both[::-1]


def test_a_field_takes_at_most_four_edits_in_two_files() -> None:
    assert 1 <= len(edits()) <= 4
    assert len({edit.file for edit in edits()}) <= 2


def test_a_field_is_stored_filtered_by_patched_and_kept_by_a_copy(
    tree: Path, ends: list[str]
) -> None:
    seen = run("move", *ends, tree=tree)
    assert seen["used"] == {
        "own": [True] * 60,
        "keys": ["age", "id", "name", "secret_name", "team"],
        "listed": sorted(f"Hero {number}" for number in range(1, 60, 3)),
        "patched": ["Defenders", None],
        "defenders": [1],
    }
    source, target = seen["heroes"]
    assert source == target
    assert {hero["team"] for hero in target} == {"Avengers", "X-Men", "Defenders", None}


async def test_a_field_is_added_to_a_database_that_exists_and_served(tree: Path, url: str) -> None:
    async with running(create_app(Settings(database_url=url))) as client:  # without the field
        await client.post("/heroes/", json={"name": "Deadpond", "secret_name": "Dive Wilson"})
    added = await asyncio.to_thread(run, "add", url, tree=tree)
    assert added["refusal"].endswith("its table hero lacks team; run `hero-api upgrade`")
    assert added["lines"] == ["Added team to the table hero", "Made the index ix_hero_team"]
    assert [(hero["name"], hero["team"]) for hero in added["heroes"]] == [("Deadpond", None)]
    assert all(added["used"]["own"])
    assert added["used"]["patched"] == ["Defenders", None]
