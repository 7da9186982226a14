"""The scenarios, for a few seconds: what they check of the service holds, and nothing is left."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hero_api.client import HeroClient
from tests.command import run
from tests.servers import ROOT, serving

# How fast they are is no matter here.
K6 = [str(Path(sys.executable).with_name("k6")), "run", "tests/load/heroes.js", "-e", "P99=60000"]
LOCUST = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--stop-timeout", "10"]
USERS = ["--locustfile", "tests/load/locustfile.py,tests/load/spike.py"]
# The spike, which has the users of the other profile too.
COMMANDS = {
    "locust": [*LOCUST, *USERS, "--users=20", "--run-time=3", "--host"],
    "k6": [*K6, "-e", "USERS=20", "-e", "SECONDS=3", "-e", "SPIKE=1"],
}


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Where a service has ten thousand heroes."""
    seeded = run("seed", "10000", database_url=f"sqlite:///{tmp_path}/heroes.db")
    assert seeded.returncode == 0, seeded.stderr
    with serving(tmp_path) as server:
        yield f"http://{server.host}:{server.port}"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_what_the_users_check_holds_and_nothing_of_them_is_left(
    url: str, command: list[str]
) -> None:
    target = [url] if "locust" in command else ["-e", f"HOST={url}"]
    ended = subprocess.run(  # noqa: ASYNC221 - nothing else is to go on
        [*command, *target], cwd=ROOT, capture_output=True, check=False, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    async with HeroClient(url) as client:
        assert [hero.id async for hero in client.heroes()] == [*range(1, 10_001)]
