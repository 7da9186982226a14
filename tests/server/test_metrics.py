import socket
from contextlib import closing
from pathlib import Path

import httpx

from tests.servers import serving


def test_connections_are_counted_also_while_they_are_idle(tmp_path: Path) -> None:
    with serving(tmp_path) as server, httpx.Client() as client:
        url = f"http://{server.host}:{server.port}/metrics"
        with closing(socket.create_connection((server.host, server.port))) as idle:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n")
            assert idle.recv(1_000)
            text = client.get(url).text
    assert "hero_api_connections 2.0" in text
    assert "hero_api_requests_under_way 1.0" in text
