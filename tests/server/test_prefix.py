"""The service behind real proxies, as its documentation configures them."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.server.test_proxies import NGINX, documented, program, proxying
from tests.servers import serving

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
SOON = 30.0  # seconds: far more than a check takes

CADDY = "{{ admin off\n auto_https off\n storage file_system {directory}\n }}\n"
HAPROXY = """
defaults
    mode http
    timeout connect 30s
    timeout client 30s
    timeout server 30s
"""
# What comes around the README's configuration, and the command that takes the file.
PROXIES = {
    "nginx": (NGINX, "}}", ["-c"]),
    "caddy": (CADDY, "", ["run", "--adapter", "caddyfile", "--config"]),
    "haproxy": (HAPROXY, "", ["-db", "-f"]),
}


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the service behind a proxy, which has it under `/api/`."""
    name: str = request.param
    before, after, arguments = PROXIES[name]
    command = [program(name), *arguments]
    template = before + documented("### Under a prefix", name) + after
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp(name)
        server = stack.enter_context(serving(directory, options=["--root-path", "/api"]))
        upstream = f"127.0.0.1:{server.port}"
        port = stack.enter_context(proxying(template, upstream, *command))
        url = f"http://127.0.0.1:{port}"
        yield stack.enter_context(httpx.Client(base_url=url, trust_env=False))


def test_a_created_hero_is_where_its_location_says(proxy: httpx.Client) -> None:
    created = proxy.post("/api/heroes/", json=HERO)
    assert proxy.get(created.headers["Location"]).json() == created.json()


def test_following_the_links_meets_every_hero(proxy: httpx.Client) -> None:
    for _ in range(3):
        proxy.post("/api/heroes/", json=HERO)
    total = int(proxy.get("/api/heroes/?limit=0&count=true").headers["X-Total-Count"])
    page = proxy.get("/api/heroes/?limit=1")
    met = len(page.json())
    while "next" in page.links:
        page = proxy.get(page.links["next"]["url"])
        met += len(page.json())
    assert met == total >= 3


def test_a_post_without_the_slash_is_redirected_and_stored(proxy: httpx.Client) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    answer = proxy.post("/api/heroes", json=HERO, headers=headers)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/api/heroes/")
    assert proxy.post("/api/heroes", json=HERO, follow_redirects=True).status_code == 200


def test_the_documentation_finds_its_document(proxy: httpx.Client) -> None:
    page = proxy.get("/api/docs").text
    [url] = re.findall(r"url: '([^']+)'", page)
    document = proxy.get(url).json()
    assert document["servers"] == [{"url": "/api"}]
    for asset in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert proxy.get(asset).status_code == 200


def test_a_clients_own_prefix_and_host_do_not_count(proxy: httpx.Client) -> None:
    headers = {"X-Forwarded-Prefix": "//evil.example", "X-Forwarded-Host": "evil.example"}
    answer = proxy.post("/api/heroes/", json=HERO, headers=headers)
    assert answer.headers["Location"].startswith("/api/heroes/")


@pytest.mark.parametrize("path", ["/api/livez", "/api/heroes/", "/api/docs", "/api/nothing"])
def test_head_is_answered_as_get_is(proxy: httpx.Client, path: str) -> None:
    head, get = proxy.head(path), proxy.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")


@pytest.mark.parametrize("check", ["", "HEAD /livez", "GET /readyz", "OPTIONS /"])
def test_haproxys_checks_find_the_service_up(tmp_path: Path, check: str) -> None:
    template = f"""
global
    stats socket {tmp_path}/stats
defaults
    mode http
    timeout connect 30s
    timeout client 30s
    timeout server 30s
    timeout check 30s
listen heroes
    bind 127.0.0.1:{{port}}
    option httpchk {check}
    server one {{upstream}} check inter 20ms
"""
    command = [program("haproxy"), "-db", "-f"]
    with (
        serving(tmp_path) as server,
        proxying(template, f"127.0.0.1:{server.port}", *command),
    ):
        deadline = time.monotonic() + SOON
        stats = tmp_path / "stats"  # which haproxy names after it listens
        while not (stats.exists() and (status := checked(stats)).startswith("L7")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert status == "L7OK"


def checked(stats: Path) -> str:
    """Return what haproxy's last check of its one server found."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(stats))
        connection.sendall(b"show stat -1 4 -1\n")
        names, values = connection.makefile().read().strip().splitlines()
    return dict(zip(names.split(","), values.split(","), strict=False))["check_status"]
