"""A real Prometheus reads the metrics, and answers the queries of the README."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.servers import ROOT

README = (ROOT / "hero_api/web/README.md").read_text()
QUERIES = dict(
    re.findall(r"^\| ([^|]+) \| `([^`|]*(?:hero_api|process)_[^`|]+)` \|$", README, re.MULTILINE)
)
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
SOON = 60.0  # seconds: far more than anything here takes

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"),
    reason="needs the program `prometheus` (Debian: apt-get install prometheus)",
)


@pytest.fixture(scope="module")
def prometheus(
    server: httpx.URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a Prometheus that watches the server."""
    directory = tmp_path_factory.mktemp("prometheus")
    job = {"job_name": "hero-api", "static_configs": [{"targets": [server.netloc.decode()]}]}
    configuration = {"global": {"scrape_interval": "100ms"}, "scrape_configs": [job]}
    (directory / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML too
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        "--web.listen-address=127.0.0.1:0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = iter(process.stderr.readline, "")
            address = next(
                filter(None, (re.search(r"address=(127\S+:[1-9]\d*)", line) for line in said))
            )
            with httpx.Client(base_url=f"http://{address[1]}/api/v1", timeout=SOON) as client:
                yield client
        finally:
            process.kill()


def ask(prometheus: httpx.Client, query: str) -> list[Any]:
    answer = prometheus.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", answer
    found: list[Any] = answer["data"]["result"]
    return found


def test_prometheus_reads_what_the_service_counts(
    server: httpx.URL, prometheus: httpx.Client
) -> None:
    created = 'hero_api_requests_total{method="POST",route="/heroes/",status="200"}'
    with httpx.Client(base_url=server) as client:
        client.post("/heroes/", json=HERO)
        [count] = re.findall(
            rf"^{re.escape(created)} (\S+)$", client.get("/metrics").text, re.MULTILINE
        )
    deadline = time.monotonic() + SOON
    while [float(one["value"][1]) for one in ask(prometheus, created)] != [float(count)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES.keys())
def test_prometheus_answers_the_queries_of_the_readme(prometheus: httpx.Client, query: str) -> None:
    deadline = time.monotonic() + SOON
    while not ask(prometheus, query):  # a rate is one between two looks at the service
        assert time.monotonic() < deadline
        time.sleep(0.02)
