import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.servers import serving

OPTIONS = ["--access-log", "--log-format", "json"]


def test_the_command_logs_each_request_in_a_line_of_json(tmp_path: Path) -> None:
    with serving(tmp_path, options=OPTIONS) as server:
        url = f"http://{server.host}:{server.port}/heroes/7"
        response = httpx.get(url, headers={"X-Request-ID": "order-7"})
        assert response.headers["X-Request-ID"] == "order-7"
        [line] = map(json.loads, server.log.read_text().splitlines())
    assert (line["method"], line["path"], line["status"]) == ("GET", "/heroes/7", 404)
    assert (line["client"], line["request_id"]) == ("127.0.0.1", "order-7")


def test_the_command_logs_each_request_in_a_line_of_text(tmp_path: Path) -> None:
    with serving(tmp_path, options=["--access-log"]) as server:
        httpx.get(f"http://{server.host}:{server.port}/livez")
        assert " INFO 127.0.0.1 GET /livez 200 " in server.log.read_text()


def test_the_command_logs_no_request_by_default(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        response = httpx.get(f"http://{server.host}:{server.port}/livez")
        assert "X-Request-ID" not in response.headers
        assert server.log.read_text() == ""


@pytest.mark.parametrize(
    ("options", "client"),
    [((), "192.0.2.7"), (("--forwarded-allow-ips", "192.0.2.1"), "127.0.0.1")],
)
def test_a_line_names_the_client_that_a_trusted_proxy_names(
    tmp_path: Path, options: Sequence[str], client: str
) -> None:
    with serving(tmp_path, options=["--access-log", *options]) as server:
        url = f"http://{server.host}:{server.port}/livez"
        httpx.get(url, headers={"X-Forwarded-For": "192.0.2.7"})
        assert f" INFO {client} GET /livez 200 " in server.log.read_text()


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("warning", 1), ("error", 0)])
def test_the_level_says_what_is_logged_at_least(tmp_path: Path, level: str, lines: int) -> None:
    with serving(tmp_path, options=["--log-level", level], no_setting=1) as server:
        logged = server.log.read_text().splitlines()
    assert [line for line in logged if "HERO_API_NO_SETTING" in line] == logged
    assert len(logged) == lines
