"""The prefix that a proxy forwards, where an option says that it counts."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.servers import serving

pytestmark = pytest.mark.sqlite  # the engine makes no difference to it

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
NO_PATHS = ["//evil.example", "api", "/a b", "/a/", "/a, /b", "/a?b", "https://evil.example/a", ""]


def test_the_prefix_of_a_trusted_proxy_counts(tmp_path: Path) -> None:
    options = ["--forwarded-prefix", "--root-path", "/api", "--access-log"]
    forwarded = {"X-Forwarded-Prefix": "/v1/x", "X-Forwarded-For": "192.0.2.7"}
    with serving(tmp_path, options=options) as server:
        url = f"http://{server.host}:{server.port}"
        with httpx.Client(base_url=url, headers=forwarded) as client:
            assert client.post("/heroes/", json=HERO).headers["Location"] == "/v1/x/heroes/1"
            assert client.get("/heroes").headers["Location"] == "/v1/x/heroes/"
            assert client.get("/openapi.json").json()["servers"][0] == {"url": "/v1/x"}
        assert httpx.post(f"{url}/heroes/", json=HERO).headers["Location"] == "/api/heroes/2"
        for prefix in NO_PATHS:
            answer = httpx.get(f"{url}/heroes", headers={"X-Forwarded-Prefix": prefix})
            assert answer.headers["Location"] == "/api/heroes/", prefix
        twice = httpx.get(f"{url}/heroes", headers=[("X-Forwarded-Prefix", "/a")] * 2)
        assert twice.headers["Location"] == "/api/heroes/"


@pytest.mark.parametrize(
    "options", [[], ["--forwarded-prefix", "--forwarded-allow-ips", "192.0.2.1"]]
)
def test_it_counts_from_nobody_else(tmp_path: Path, options: Sequence[str]) -> None:
    with serving(tmp_path, options=options) as server:
        url = f"http://{server.host}:{server.port}/heroes"
        answer = httpx.get(url, headers={"X-Forwarded-Prefix": "/api"})
    assert answer.headers["Location"] == "/heroes/"
