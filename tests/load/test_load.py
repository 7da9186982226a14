"""The scenarios, for a few seconds: what they check of the service holds, and nothing is left."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hero_api.client import HeroClient
from tests.command import run
from tests.servers import ROOT, Server, serving

# How fast they are is no matter here.
K6 = [str(Path(sys.executable).with_name("k6")), "run", "tests/load/heroes.js", "-e", "P99=60000"]
LOCUST = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--stop-timeout", "10"]
USERS = ["--locustfile", "tests/load/locustfile.py,tests/load/spike.py"]
# The spike, which has the users of the other profile too.
COMMANDS = {
    "locust": [*LOCUST, *USERS, "--run-time=3", "--users={users}", "--host={url}"],
    "k6": [*K6, *("-e", "SECONDS=3", "-e", "SPIKE=1", "-e", "USERS={users}", "-e", "HOST={url}")],
}
command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
# It changes nothing, and says that it did.
WRONG = """
import socket
import uvicorn
from hero_api.main import app

async def wrong(scope, receive, send):
    if scope.get("method") == "PATCH":
        scope = {**scope, "method": "GET"}
    await app(scope, receive, send)

with socket.create_server(("127.0.0.1", 0)) as listening:
    print("http://127.0.0.1:%d" % listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(wrong, access_log=False)).run([listening])
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where there are ten thousand heroes."""
    seeded = run("seed", "10000", database_url=f"sqlite:///{tmp_path}/heroes.db")
    assert seeded.returncode == 0, seeded.stderr
    return tmp_path


def load(server: Server, command: Sequence[str], users: int) -> "subprocess.CompletedProcess[str]":
    url = f"http://{server.host}:{server.port}"
    return subprocess.run(
        [part.format(users=users, url=url) for part in command],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


@command
async def test_what_the_users_check_holds_and_nothing_of_them_is_left(
    directory: Path, command: list[str]
) -> None:
    with serving(directory) as server:
        ended = load(server, command, users=20)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        async with HeroClient(f"http://{server.host}:{server.port}") as client:
            assert [hero.id async for hero in client.heroes()] == [*range(1, 10_001)]


@command
def test_the_users_find_an_answer_that_is_wrong(directory: Path, command: list[str]) -> None:
    with serving(directory, program=("-c", WRONG)) as server:
        ended = load(server, command, users=40)
    assert ended.returncode != 0
    assert "one field is changed, and no other" in ended.stdout + ended.stderr
