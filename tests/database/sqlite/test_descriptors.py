"""A server that has no file descriptor left, and gets some again."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.servers import SERVE, Server, serving

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

DESCRIPTORS = 64
FLOOD = 3 * DESCRIPTORS
RECOVERY = 2.0  # seconds, as it is promised
LOG = 10_000  # bytes: a flood of connections is no flood of lines
HERO = json.dumps({"name": "Deadpond", "secret_name": "Dive Wilson"})
LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
from hero_api.cli import main
main()
"""


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Server]:
    """A server that may have no more than `DESCRIPTORS` files and connections open."""
    with serving(tmp_path, program=("-c", LIMITED, *SERVE[2:])) as server:
        yield server


@pytest.fixture
def flood(limited: Server) -> Iterator[ExitStack]:
    """More connections than the server has descriptors for, until they are closed."""
    with flooded(limited) as stack:
        yield stack


@contextmanager
def flooded(server: Server) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        for _ in range(FLOOD):
            wire = stack.enter_context(closing(socket.socket()))
            wire.settimeout(10 * RECOVERY)
            wire.connect((server.host, server.port))
        end = time.monotonic() + 5 * RECOVERY
        while server.descriptors() < DESCRIPTORS - 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert server.descriptors() >= DESCRIPTORS - 2
        yield stack


def connect(server: Server) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.host, server.port, timeout=10 * RECOVERY)


def create(connection: http.client.HTTPConnection) -> int | None:
    """Create a hero; return its id, or nothing where it was not acknowledged."""
    connection.request("POST", "/heroes/", HERO, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status in {200, 503}
    return content["id"] if answer.status == 200 else None


def stored(server: Server) -> set[int]:
    with closing(connect(server)) as connection:
        connection.request("GET", "/heroes/")
        return {hero["id"] for hero in json.loads(connection.getresponse().read())}


def serves_within(server: Server, seconds: float) -> bool:
    """Whether a new connection is served in so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, http.client.HTTPException), closing(connect(server)) as connection:
            connection.timeout = max(0.1, end - time.monotonic())
            return create(connection) is not None
        time.sleep(0.02)
    return False


def test_the_service_recovers_when_descriptors_are_free_again(
    limited: Server, flood: ExitStack
) -> None:
    flood.close()
    assert serves_within(limited, 5 * RECOVERY)


def test_the_service_recovers_again_and_again(limited: Server) -> None:
    for _ in range(5):
        with flooded(limited):
            """There are no descriptors left."""
        assert serves_within(limited, 5 * RECOVERY)


def test_a_client_that_was_connected_before_is_served_meanwhile(limited: Server) -> None:
    with closing(connect(limited)) as early:
        acknowledged = {create(early)}
        with flooded(limited):
            acknowledged |= {create(early) for _ in range(20)}
        assert None not in acknowledged
        assert serves_within(limited, 5 * RECOVERY)
        assert acknowledged <= stored(limited)


def test_the_log_stays_small_while_there_are_no_descriptors(
    limited: Server, flood: ExitStack
) -> None:
    # For as long as the server could write a line again and again.
    with flood, closing(connect(limited)) as connection, suppress(OSError):
        connection.timeout = RECOVERY
        connection.request("GET", "/livez")
        connection.getresponse()
    assert limited.log.stat().st_size < LOG


def test_reads_that_need_a_first_connection_to_the_file_are_served_afterwards(
    limited: Server, flood: ExitStack
) -> None:
    flood.close()
    assert serves_within(limited, 5 * RECOVERY)
    assert stored(limited) == {1}
