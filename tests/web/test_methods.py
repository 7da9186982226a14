"""A request has a body when the client sends one, whatever its method."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.servers import Server, serving

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]
LIMIT = 262_144  # bytes of a body, the default
LARGE = b"x" * LIMIT  # more than the server takes before somebody reads
CLIENT_TIMEOUT = 0.5  # seconds, the setting
UNTOUCHED = 30.0  # seconds: what has no promised deadline must still end

# The service, with a route that says how large the body of a request was.
PROGRAM = """
from fastapi import Request
from hero_api.app import create_app
from hero_api.server.listener import listen
from hero_api.server.server import serve
from hero_api.settings import Settings

async def size(request: Request) -> int:
    return len(await request.body())

app = create_app(Settings.from_environment())
app.add_api_route("/size", size, methods={methods})
serve(app, listen("127.0.0.1", 0))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("methods")
    program = ["-c", PROGRAM.format(methods=METHODS)]
    with serving(directory, program=program, client_timeout=CLIENT_TIMEOUT) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[HTTPConnection]:
    """One connection, which is not opened again when the server closes it."""
    with closing(HTTPConnection(server.host, server.port, timeout=UNTOUCHED)) as connection:
        connection.connect()
        connection.auto_open = False
        yield connection


def ask(connection: HTTPConnection, method: str, *pieces: bytes) -> tuple[int, bytes]:
    """Send a body, in chunks where it comes in several pieces; return status and answer."""
    if len(pieces) == 1:
        connection.request(method, "/size", body=pieces[0])
    else:
        connection.request(method, "/size", body=iter(pieces), encode_chunked=True)
    response = connection.getresponse()
    return response.status, response.read()


each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_a_large_body_arrives_whole(connection: HTTPConnection, method: str) -> None:
    assert ask(connection, method, LARGE) == (200, b"%d" % LIMIT)


@each_method
def test_a_large_body_in_chunks_arrives_whole(connection: HTTPConnection, method: str) -> None:
    assert ask(connection, method, LARGE[1:], b"x") == (200, b"%d" % LIMIT)


@each_method
@pytest.mark.parametrize("pieces", [[LARGE + b"x"], [LARGE, b"x"]], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_413_and_the_connection_can_be_used_again(
    connection: HTTPConnection, method: str, pieces: list[bytes]
) -> None:
    assert ask(connection, method, *pieces)[0] == 413
    assert ask(connection, method, b"body") == (200, b"4")


def test_clients_that_send_half_a_body_are_closed_at_the_deadline(server: Server) -> None:
    with ExitStack() as stack:
        wires = {}
        for method in METHODS:
            address = server.host, server.port
            wires[method] = stack.enter_context(socket.create_connection(address, UNTOUCHED))
            head = f"{method} /size HTTP/1.1\r\nHost: hero-api\r\nContent-Length: 10\r\n\r\n"
            wires[method].sendall(f"{head}half ".encode())
        for method, wire in wires.items():
            assert wire.recv(1) == b"", method


@each_method
def test_a_body_that_comes_late_arrives_whole(connection: HTTPConnection, method: str) -> None:
    connection.putrequest(method, "/size")
    connection.putheader("Content-Length", "10")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    # Said when the application begins to read the body.
    assert connection.sock.recv(65_536).startswith(b"HTTP/1.1 100 ")
    connection.send(b"half half ")
    assert connection.getresponse().read() == b"10"


@pytest.mark.parametrize("target", ["*", "/"])
def test_what_asks_for_the_options_of_all_is_answered(
    connection: HTTPConnection, target: str
) -> None:
    connection.request("OPTIONS", target)
    response = connection.getresponse()
    assert (response.status, response.headers["Allow"], response.read()) == (204, "OPTIONS", b"")


def test_what_asks_for_the_options_of_all_is_answered_under_a_prefix_too(tmp_path: Path) -> None:
    with (
        serving(tmp_path, root_path="/api") as server,
        closing(HTTPConnection(server.host, server.port, timeout=UNTOUCHED)) as connection,
    ):
        connection.request("OPTIONS", "*")
        assert connection.getresponse().status == 204
