"""What a client's connection may do: how long it may take, and how much it may send."""

import asyncio
import json
import re
import select
import signal
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from hero_api.batching.queue import arrived
from hero_api.server.admission import AdmissionLimiter
from hero_api.server.client_protocol import ClientProtocol, ProtocolFactory
from hero_api.server.lifecycle import RequestLifecycleMiddleware
from tests.servers import Server, serving

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

TIMEOUT = 0.5  # seconds, the setting
PATIENCE = 6 * TIMEOUT
UNTOUCHED = 30.0  # seconds: what has no promised deadline must still end

JSON = "Content-Type: application/json"
HERO = json.dumps({"name": "Deadpond", "secret_name": "Dive Wilson"}).encode()
LARGE = {"name": "Deadpond", "secret_name": "?" * 10_000}
PAGE = 1_000_000  # bytes of a page of a hundred such heroes, at the least
MEGABYTE = 1_000_000
ROOM = 4  # requests of a kind that are begun at a time


def head(line: str, *fields: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: hero-api", *fields, "", ""]).encode()


GET = head("GET /livez")
GET_HERO = head("GET /heroes/1")
GET_PAGE = head("GET /heroes/")
POST = head("POST /heroes/", JSON, f"Content-Length: {len(HERO)}")
POST_CHUNKED = head("POST /heroes/", JSON, "Transfer-Encoding: chunked")
POST_HERO = POST + HERO
POST_HERO_CHUNKED = POST_CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(HERO), HERO)
OFFER = b"Host: hero-api\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:"
PUT = head("PUT /heroes/", JSON, f"Content-Length: {len(HERO)}")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for its clients no longer than `TIMEOUT`."""
    with serving(tmp_path_factory.mktemp("impatient"), client_timeout=TIMEOUT) as server:
        for _ in range(100):
            assert status_of(server, [post(LARGE)]) == 200
        yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has served some of everything already."""
    with serving(tmp_path_factory.mktemp("patient"), client_timeout=5) as server:
        for request in (GET, GET_PAGE, post(LARGE), POST_HERO, head("GET /heroes/x")):
            status_of(server, [request])
        yield server


def post(hero: object) -> bytes:
    body = json.dumps(hero).encode()
    return head("POST /heroes/", JSON, f"Content-Length: {len(body)}") + body


def connect(server: Server, *, receives: int | None = None) -> socket.socket:
    """Connect; `receives` bounds the bytes that the client's side takes unread."""
    wire = socket.socket()
    if receives is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    wire.settimeout(UNTOUCHED)
    wire.connect((server.host, server.port))
    return wire


def status_of(server: Server, pieces: Iterable[bytes]) -> int:
    """Send a request in pieces; return the status of the first answer."""
    with closing(connect(server)) as wire:
        with suppress(ConnectionError):  # it was answered before all of it was sent
            for piece in pieces:
                wire.sendall(piece)
        with wire.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def serves(server: Server) -> bool:
    return status_of(server, [GET]) == 200


def read_to_the_end(wire: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    content = b""
    with suppress(ConnectionResetError):
        while piece := wire.recv(65_536):
            content += piece
    return content


def until(condition: Callable[[], bool], *, within: float) -> bool:
    """Whether the condition comes true in so many seconds: what /proc shows sends no event."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_reset(wire: socket.socket) -> bool:
    try:
        wire.sendall(b"\r\n")
    except ConnectionError:
        return True
    return False


def log_size(server: Server) -> int:
    return server.log.stat().st_size


# Slow senders

SLOW = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "half a line": b"GET /her",
    "half a head": GET[:-2],
    "a head without its body": POST,
    "half a body": POST + HERO[:10],
    "half a chunk": POST_CHUNKED + b"20\r\n{",
    "half of a body that was refused": head("POST /heroes/", "Content-Length: 1000000") + b"{",
}
HALVES_OF_A_SECOND = {
    what: SLOW[what]
    for what in ("half a head", "a head without its body", "half a body", "half a chunk")
}
# What is sent, the status of its answer if it has one, and what is sent after that.
QUIET = {
    **{what: (sent, None, b"") for what, sent in SLOW.items()},
    **{f"{what} behind it": (GET + sent, 200, b"") for what, sent in HALVES_OF_A_SECOND.items()},
    **{f"{what} after it": (GET, 200, sent) for what, sent in HALVES_OF_A_SECOND.items()},
    "nothing after it": (GET, 200, b""),
    "a body that nobody reads": (PUT + HERO, 405, b""),
    "half of a body that nobody reads": (PUT + HERO[:10], 405, b""),
}


async def test_a_client_that_sends_no_more_is_closed_at_the_deadline(
    impatient: Server, subtests: pytest.Subtests
) -> None:
    async def wait(sent: bytes, status: int | None, after: bytes) -> None:
        reader, writer = await asyncio.open_connection(impatient.host, impatient.port)
        with closing(writer):
            writer.write(sent)
            if status is not None:
                assert (await reader.readline()).split()[1] == b"%d" % status
            writer.write(after)
            with suppress(ConnectionResetError):
                async with asyncio.timeout(PATIENCE):
                    await reader.read()

    ends = await asyncio.gather(*(wait(*each) for each in QUIET.values()), return_exceptions=True)
    for what, end in zip(QUIET, ends, strict=True):
        with subtests.test(what):
            assert end is None


@pytest.mark.parametrize(
    "request_", [GET[:-2] + b"X: " + b"x" * 999, POST_CHUNKED + b"3E7\r\n" + b" " * 999]
)
def test_a_client_that_drips_is_closed_at_the_deadline(impatient: Server, request_: bytes) -> None:
    with closing(connect(impatient)) as wire:
        began = time.monotonic()
        for byte in request_:
            closed, _, _ = select.select([wire], [], [], 0.02)
            if closed:
                break
            wire.sendall(bytes([byte]))
        assert time.monotonic() - began < PATIENCE


def test_many_slow_clients_are_closed_and_do_not_delay_others(impatient: Server) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(closing(connect(impatient))) for _ in range(100)]
        for number, wire in enumerate(wires):
            wire.sendall([*SLOW.values()][number % len(SLOW)])
        began = time.monotonic()
        assert all(serves(impatient) for _ in range(20))
        assert time.monotonic() - began < PATIENCE
        for wire in wires:
            wire.settimeout(PATIENCE)
            read_to_the_end(wire)
    assert serves(impatient)


def test_a_client_that_uses_its_connection_keeps_it_beyond_the_deadline(impatient: Server) -> None:
    end = time.monotonic() + 2 * TIMEOUT
    with closing(connect(impatient)) as wire:
        while time.monotonic() < end:
            wire.sendall(POST[:20])
            wire.sendall(POST[20:] + HERO)
            response = HTTPResponse(wire, method="POST")
            response.begin()
            assert json.loads(response.read())["name"] == "Deadpond"


def test_nothing_is_logged_of_slow_clients(impatient: Server) -> None:
    before = log_size(impatient)
    with closing(connect(impatient)) as wire:
        wire.sendall(POST + HERO[:10])
        read_to_the_end(wire)
    assert log_size(impatient) == before


# Clients of a server that stood still

HALVES = {
    "nothing": (b"", GET),
    "half a head": (GET[:-2], GET[-2:]),
    "a head": (POST, HERO),
    "half a body": (POST_HERO[:-10], POST_HERO[-10:]),
    "another request": (GET, GET),
}


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Let the process stand still, for longer than it waits for its clients, and go on."""
    process = server.process
    process.send_signal(signal.SIGSTOP)
    while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"):
        time.sleep(0.01)
    try:
        yield
        time.sleep(3 * TIMEOUT)  # that it stands still is what is tested
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.fixture
def halfway(impatient: Server) -> Iterator[list[tuple[socket.socket, bytes]]]:
    """Clients that have sent the first half of each of `HALVES`, each with the other half."""
    with ExitStack() as stack:
        clients = []
        for first, second in [*HALVES.values()] * 20:
            wire = stack.enter_context(closing(connect(impatient)))
            wire.sendall(first)
            if first == GET:
                assert b" 200 OK" in wire.recv(65_536)
            clients.append((wire, second))
        yield clients


def test_what_was_sent_while_the_server_stood_still_is_answered(
    impatient: Server, halfway: list[tuple[socket.socket, bytes]]
) -> None:
    with stopped(impatient):
        for wire, second in halfway:
            wire.sendall(second)
    assert all(wire.recv(65_536).startswith(b"HTTP/1.1 200 OK") for wire, _ in halfway)


def test_clients_have_their_time_anew_once_when_the_server_stood_still(
    impatient: Server, halfway: list[tuple[socket.socket, bytes]]
) -> None:
    with closing(connect(impatient)) as quiet:
        quiet.sendall(GET[:-2])
        assert serves(impatient)
        with stopped(impatient):
            pass
        # For so long, in which it looks at them twice, none of them is closed.
        wires = [quiet, *(wire for wire, _ in halfway)]
        assert select.select(wires, [], [], TIMEOUT / 4) == ([], [], [])
        for wire, second in halfway:
            wire.sendall(second)
        assert all(wire.recv(65_536).startswith(b"HTTP/1.1 200 OK") for wire, _ in halfway)
        quiet.settimeout(PATIENCE)
        read_to_the_end(quiet)


def test_an_answer_is_sent_to_its_end_when_the_server_stood_still(impatient: Server) -> None:
    with closing(connect(impatient, receives=65_536)) as wire:
        wire.sendall(GET_PAGE * 9 + head("GET /heroes/", "Connection: close"))
        assert wire.recv(1, socket.MSG_PEEK)
        # Meanwhile it sends as much as there is room for, and waits for the client.
        assert serves(impatient)
        with stopped(impatient):
            pass
        assert len(read_to_the_end(wire)) > 10 * PAGE


# Slow readers


@pytest.fixture
def slow_readers(impatient: Server) -> Iterator[list[socket.socket]]:
    """Twenty clients that ask for pages of a megabyte, fifty times, and read nothing."""
    with ExitStack() as stack:
        wires = [
            stack.enter_context(closing(connect(impatient, receives=4_096))) for _ in range(20)
        ]
        for wire in wires:
            wire.sendall(GET_PAGE * 50)
        yield wires


def test_a_client_that_does_not_read_is_closed_at_the_deadline(impatient: Server) -> None:
    with closing(connect(impatient, receives=4_096)) as wire:
        wire.sendall(GET_PAGE * 50)
        # What is sent to a connection that was closed is answered by a reset.
        assert until(lambda: is_reset(wire), within=PATIENCE)
        assert len(read_to_the_end(wire)) < 50 * PAGE


def test_clients_that_do_not_read_do_not_delay_others(
    impatient: Server, slow_readers: list[socket.socket]
) -> None:
    assert slow_readers
    began = time.monotonic()
    assert all(serves(impatient) for _ in range(20))
    assert time.monotonic() - began < PATIENCE


def test_memory_is_bounded_while_clients_do_not_read(impatient: Server) -> None:
    before = impatient.memory()
    largest = before
    with ExitStack() as stack:
        for _ in range(20):
            wire = stack.enter_context(closing(connect(impatient, receives=4_096)))
            wire.sendall(GET_PAGE * 50)
        end = time.monotonic() + 2 * TIMEOUT
        while time.monotonic() < end:
            serves(impatient)
            largest = max(largest, impatient.memory())
    # Each may have a page that it does not read, and one that waits behind it.
    assert largest - before < 20 * 3


def test_the_rest_of_an_answer_that_nobody_reads_is_dropped_at_the_deadline(
    impatient: Server,
) -> None:
    with ExitStack() as stack:
        wires = [
            stack.enter_context(closing(connect(impatient, receives=4_096))) for _ in range(80)
        ]
        # Some come a little above what the system takes: what is left is no reason to wait.
        for number, wire in enumerate(wires):
            pages, heroes = divmod(number * 5, 100)
            last = head(f"GET /heroes/?limit={heroes}", "Connection: close")
            wire.sendall(GET_PAGE * (pages + 1) + last)
        assert until(lambda: all(is_reset(wire) for wire in wires), within=2 * PATIENCE)


def test_a_client_that_reads_slowly_but_in_time_gets_the_whole_page(impatient: Server) -> None:
    with closing(connect(impatient, receives=4_096)) as wire:
        wire.sendall(head("GET /heroes/", "Connection: close"))
        content = read_to_the_end(wire)
    answer_head, _, body = content.partition(b"\r\n\r\n")
    assert b" 200 " in answer_head
    assert len(json.loads(body)) == 100


# What is too large


def megabytes(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * MEGABYTE


def declared(line: str) -> Iterator[bytes]:
    yield head(line, JSON, f"Content-Length: {50 * MEGABYTE}")
    yield from megabytes(50)


def chunked(line: str) -> Iterator[bytes]:
    yield head(line, JSON, "Transfer-Encoding: chunked")
    for megabyte in megabytes(50):
        yield b"%x\r\n%s\r\n" % (len(megabyte), megabyte)
    yield b"0\r\n\r\n"


def fields(count: int) -> bytes:
    return head("GET /livez", *(f"X-{number}: {number}" for number in range(count)))


LONG_HEAD = head("GET /livez", "X: " + "x" * MEGABYTE)
HUGE: dict[str, Callable[[], Iterable[bytes]]] = {
    "a create of 50 MB": lambda: declared("POST /heroes/"),
    "a create of 50 MB in chunks": lambda: chunked("POST /heroes/"),
    "a change of 50 MB": lambda: declared("PATCH /heroes/1"),
    "a change of 50 MB in chunks": lambda: chunked("PATCH /heroes/1"),
    "a get with a body of 50 MB": lambda: declared("GET /heroes/1"),
    "a delete with a body of 50 MB in chunks": lambda: chunked("DELETE /heroes/0"),
    "a method that is not allowed, with 50 MB": lambda: declared("PUT /heroes/"),
    "a path that does not exist, with 50 MB": lambda: declared("POST /villains/"),
    "a header of 1 MB": lambda: [LONG_HEAD],
    "a header's name of 1 MB": lambda: [head("GET /livez", "x" * MEGABYTE + ": x")],
    "a header of 1 MB in pieces": lambda: re.findall(rb"(?s).{1,1000}", LONG_HEAD),
    "20,000 headers": lambda: [fields(20_000)],
    "20,000 headers in pieces": lambda: re.findall(rb"(?s).{1,1000}", fields(20_000)),
    "a path of 200 kB": lambda: [head("GET /heroes/" + "1" * 200_000)],
    "a query of 200 kB": lambda: [head("GET /heroes/?name=" + "x" * 200_000)],
    "an id that is longer by as much as 16 bits can count": lambda: [
        head("DELETE /heroes/1" + "1" * 65_536)
    ],
    "a method of 1 MB": lambda: [b"G" * MEGABYTE],
    "1 MB of empty lines": lambda: [b"\r\n" * (MEGABYTE // 2), GET],
    "a chunk's extension of 1 MB": lambda: [
        POST_CHUNKED,
        b"%x;%s\r\n%s\r\n0\r\n\r\n" % (len(HERO), b"x" * MEGABYTE, HERO),
    ],
    "a trailer of 1 MB": lambda: [POST_CHUNKED, b"0\r\nX: " + b"x" * MEGABYTE + b"\r\n\r\n"],
}


@pytest.mark.parametrize("pieces", HUGE.values(), ids=HUGE.keys())
def test_what_is_huge_is_refused_or_served_and_leaves_no_memory_taken(
    patient: Server, pieces: Callable[[], Iterable[bytes]]
) -> None:
    before = patient.memory()
    status = status_of(patient, pieces())
    assert status == 200 or 400 <= status < 500
    assert serves(patient)
    assert patient.memory() - before < 10


REFUSED_BODY = head("POST /heroes/", "Content-Length: 300000")
BEFORE = {
    "nothing": [b""],
    "empty lines": [b"\r\n\r\n"],
    "a request": [GET],
    "a body that was refused": [REFUSED_BODY, b" " * 300_000],
    "a body that nobody reads": [PUT + HERO],
    "a body that looks like the end of a head": [
        head("DELETE /heroes/0", "Content-Length: 5"),
        b"x\r\n\r\n",
    ],
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
def test_a_head_without_end_is_refused_whatever_came_before_it(
    patient: Server, before: list[bytes]
) -> None:
    memory = patient.memory()
    with closing(connect(patient)) as wire:
        for piece in before:
            wire.sendall(piece)
            # Its answer, if it has one; if not, a moment for the server to take it by itself.
            if select.select([wire], [], [], 0.1)[0]:
                response = HTTPResponse(wire)
                response.begin()
                response.read()
        wire.sendall(GET[:-2] + b"X: ")
        assert refuses_more(wire)
        assert patient.memory() - memory < 10


def refuses_more(wire: socket.socket) -> bool:
    """Send much more of a value; return whether that is refused."""
    with suppress(ConnectionError):
        for _ in range(50):
            wire.sendall(b"x" * MEGABYTE)
    with wire.makefile("rb") as answer:
        return answer.readline().split()[1] == b"431"


def test_a_head_without_end_takes_no_memory_behind_a_request_under_way(patient: Server) -> None:
    before = patient.memory()
    with (
        closing(sqlite3.connect(patient.file, isolation_level=None)) as other,
        closing(connect(patient)) as wire,
    ):
        other.execute("BEGIN IMMEDIATE")  # so that the create has to wait
        wire.sendall(POST_HERO)
        wire.settimeout(TIMEOUT)
        # Either no more is taken from this client, or it is closed.
        with suppress(ConnectionError, TimeoutError):
            wire.sendall(GET[:-2] + b"X: ")
            for _ in range(50):
                wire.sendall(b"x" * MEGABYTE)
        assert patient.memory() - before < 10
        other.execute("ROLLBACK")


@pytest.mark.parametrize("path", ["/livez", "/heroes/1"])
def test_clients_that_leave_before_they_are_taken_in_are_neither_answered_nor_logged(
    patient: Server, path: str
) -> None:
    before = log_size(patient)
    patient.process.send_signal(signal.SIGSTOP)
    for _ in range(200):
        with connect(patient) as wire:
            wire.sendall(head(f"GET {path} HTTP/1.1"))
    patient.process.send_signal(signal.SIGCONT)
    assert serves(patient)
    assert log_size(patient) == before


# Connections of this process


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self.sent = b""
        self._is_reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True


class Crowd:
    """Connections of this process, to an application that answers from `answering` on."""

    def __init__(self) -> None:
        self.begun: list[Scope] = []
        self.arrived: list[float | None] = []
        self.requests: list[weakref.ref[Any]] = []  # uvicorn's objects
        self.answering = asyncio.Event()
        self._state = ServerState()
        self._app = RequestLifecycleMiddleware(self._answer)
        self._config = Config(self._begin, interface="asgi3", access_log=False)
        safe, unsafe = (AdmissionLimiter(ROOM, UNTOUCHED, UNTOUCHED) for _ in range(2))
        self._connections = ProtocolFactory(TIMEOUT, safe, unsafe, exempt=["/livez"])

    def connect(self) -> tuple[ClientProtocol, _Transport]:
        made = self._connections(self._config, self._state)
        transport = _Transport()
        made.connection_made(transport)
        return made, transport

    async def send(self, *pieces: bytes) -> tuple[ClientProtocol, _Transport]:
        """Send something on a new connection, and let begin what does begin."""
        connection, transport = self.connect()
        for piece in pieces:
            connection.data_received(piece)
        await asyncio.sleep(0)
        return connection, transport

    async def answer(self) -> None:
        """Answer everything."""
        self.answering.set()
        while self._state.tasks:
            await asyncio.gather(*self._state.tasks)
            await asyncio.sleep(0)

    async def drain(self, patience: float = 0) -> None:
        await self._connections.drain(patience)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope)
        self.requests.append(weakref.ref(cast("Any", receive).__self__))
        await self._app(scope, receive, send)

    async def _answer(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        self.arrived.append(arrived.get())
        await self.answering.wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})


@pytest.fixture
async def crowd() -> Crowd:
    return Crowd()


@pytest.fixture
async def full(crowd: Crowd) -> Crowd:
    """A crowd that has as many reads under way as are begun at a time."""
    for _ in range(ROOM):
        await crowd.send(GET_HERO)
    assert len(crowd.begun) == ROOM
    return crowd


@pytest.mark.parametrize("request_", [GET_HERO, GET_PAGE, head("OPTIONS /heroes/")])
async def test_reads_begin_when_others_were_answered(full: Crowd, request_: bytes) -> None:
    await full.send(request_)
    await full.send(request_)
    assert len(full.begun) == ROOM
    await full.answer()
    assert len(full.begun) == ROOM + 2


@pytest.mark.parametrize("pieces", [[GET], [POST_HERO], [POST, HERO], [head("DELETE /heroes/1")]])
async def test_writes_and_exempt_paths_do_not_wait_for_reads(
    full: Crowd, pieces: list[bytes]
) -> None:
    await full.send(*pieces)
    assert len(full.begun) == ROOM + 1
    await full.answer()


async def test_reads_do_not_wait_for_writes(crowd: Crowd) -> None:
    for _ in range(ROOM + 1):
        await crowd.send(POST_HERO)
    await crowd.send(GET_HERO)
    assert [scope["method"] for scope in crowd.begun] == ["POST"] * ROOM + ["GET"]
    await crowd.answer()


async def test_requests_of_clients_that_have_left_take_up_no_room(full: Crowd) -> None:
    waiting, _ = await full.send(GET_HERO)
    waiting.connection_lost(None)
    gone, _ = await full.send(GET_HERO)
    await full.send(GET_HERO)
    gone.connection_lost(None)
    await full.answer()
    assert len(full.begun) == ROOM + 1


async def test_what_follows_a_get_that_waits_waits_too_and_is_served(full: Crowd) -> None:
    connection, _ = await full.send(GET_HERO, GET_HERO[:9], GET_HERO[9:] + GET, POST_HERO[:-3])
    assert len(full.begun) == ROOM
    await full.answer()
    connection.data_received(POST_HERO[-3:])
    await full.answer()
    paths = [(scope["method"], scope["path"]) for scope in full.begun[ROOM:]]
    assert paths == [("GET", "/heroes/1")] * 2 + [("GET", "/livez"), ("POST", "/heroes/")]


async def test_a_request_that_waits_is_read_no_further_than_a_little(full: Crowd) -> None:
    _, small = await full.send(GET_HERO)
    _, large = await full.send(GET_HERO, b" " * 10_000)
    assert small.is_reading()
    assert not large.is_reading()
    await full.answer()
    assert large.is_reading() or large.is_closed


async def test_a_client_that_closes_its_own_side_while_its_get_waits_is_answered(
    full: Crowd,
) -> None:
    connection, transport = await full.send(GET_HERO)
    assert connection.eof_received()
    await full.answer()
    assert len(full.begun) == ROOM + 1
    assert transport.is_closed


async def test_of_many_clients_that_closed_their_own_side_the_first_are_dropped(
    full: Crowd,
) -> None:
    waiting = [await full.send(GET_HERO) for _ in range(ROOM + 2)]
    for connection, _ in waiting:
        assert connection.eof_received()
    closed = [transport.is_closed for _, transport in waiting]
    assert closed == [True] * 2 + [False] * ROOM
    await full.answer()
    assert len(full.begun) == 2 * ROOM


async def test_the_time_of_arrival_is_that_of_the_request_that_waited(full: Crowd) -> None:
    before = asyncio.get_running_loop().time()
    connection, _ = await full.send(GET_HERO)
    await full.answer()
    assert full.arrived[:ROOM] == [None] * ROOM
    [since] = full.arrived[ROOM:]
    assert since is not None
    assert since >= before
    connection.data_received(GET_HERO)
    await full.answer()
    assert full.arrived[-1] is None


async def test_a_client_whose_get_waits_is_not_late(full: Crowd) -> None:
    connection, transport = await full.send(GET_HERO)
    connection.close_if_late(float("inf"))
    assert not transport.is_closed
    await full.answer()


async def test_a_request_that_waits_is_answered_when_the_server_stops(full: Crowd) -> None:
    await full.send(GET_HERO)
    await full.drain()
    await full.answer()
    assert full.arrived[ROOM:] == [float("-inf")]


async def test_a_connection_is_closed_after_the_next_answer_when_the_server_stops(
    crowd: Crowd,
) -> None:
    connection, transport = await crowd.send(GET)
    await crowd.answer()
    draining = asyncio.create_task(crowd.drain(UNTOUCHED))
    await asyncio.sleep(0)
    assert not transport.is_closed
    connection.data_received(GET)
    await crowd.answer()
    assert transport.is_closed
    assert b"connection: close" in transport.sent
    connection.connection_lost(None)
    await draining


async def test_an_idle_connection_keeps_nothing_of_its_last_request(crowd: Crowd) -> None:
    connection, _ = await crowd.send(GET)
    await crowd.answer()
    assert [request() for request in crowd.requests] == [None]
    assert connection.http is not None
    assert connection.http.timeout_keep_alive_task is None  # the sweep takes its place
    connection.connection_lost(None)


async def test_the_time_of_a_request_begins_when_it_does_however_long_its_client_was_idle(
    crowd: Crowd,
) -> None:
    connection, transport = await crowd.send(GET)
    await crowd.answer()
    await asyncio.sleep(0.001)
    begins = asyncio.get_running_loop().time()
    connection.data_received(GET[:-2])
    connection.close_if_late(begins)
    assert not transport.is_closed
    connection.close_if_late(float("inf"))
    assert transport.is_closed


async def test_empty_lines_do_not_keep_a_connection_open(crowd: Crowd) -> None:
    connection, transport = await crowd.send(GET)
    await crowd.answer()
    await asyncio.sleep(0.001)
    later = asyncio.get_running_loop().time()
    connection.data_received(b"\r\n")
    connection.close_if_late(later)
    assert transport.is_closed


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: one\r\nHost: two\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: one\r\nHOST: one\r\n\r\n",
    ],
)
def test_a_request_without_one_host_is_refused(patient: Server, lines: bytes) -> None:
    assert status_of(patient, [lines]) == 400


def test_an_old_client_need_not_name_a_host(patient: Server) -> None:
    assert status_of(patient, [b"GET /livez HTTP/1.0\r\n\r\n"]) == 200


@pytest.mark.parametrize("blanks", [" ", "\t", " \t  "])
def test_blanks_at_the_end_of_a_header_are_no_part_of_it(patient: Server, blanks: str) -> None:
    length = f"Content-Length: {len(HERO)}"
    assert status_of(patient, [head("POST /heroes/", JSON + blanks, length), HERO]) == 200
    with closing(connect(patient)) as wire:
        wire.sendall(head("POST /heroes/", JSON, length, f"Expect: 100-continue{blanks}"))
        assert wire.recv(MEGABYTE).startswith(b"HTTP/1.1 100 ")
        wire.sendall(HERO)
        assert statuses(wire, 1) == [200]


def test_a_head_that_is_too_large_is_answered_431_in_json(patient: Server) -> None:
    with closing(connect(patient)) as wire:
        with suppress(ConnectionError):
            wire.sendall(LONG_HEAD)
        answer_head, _, body = read_to_the_end(wire).partition(b"\r\n\r\n")
    assert answer_head.startswith(b"HTTP/1.1 431 ")
    assert b"content-type: application/json" in answer_head.lower()
    assert json.loads(body)["detail"]


def test_a_length_of_thousands_of_zeros_is_taken_for_what_it_says(patient: Server) -> None:
    fields = (JSON, f"Content-Length: {'0' * 5_000}{len(HERO)}")
    assert status_of(patient, [head("POST /heroes/", *fields) + HERO]) == 200


def test_a_trailer_without_end_is_refused(patient: Server) -> None:
    memory = patient.memory()
    with closing(connect(patient)) as wire:
        wire.sendall(POST_CHUNKED + b"0\r\nX: ")
        assert refuses_more(wire)
    assert patient.memory() - memory < 10


def test_many_trailers_are_refused(patient: Server) -> None:
    memory = patient.memory()
    with closing(connect(patient)) as wire:
        with suppress(ConnectionError):
            wire.sendall(POST_CHUNKED + b"0\r\n" + b"X: x\r\n" * MEGABYTE)
        with wire.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"431"
    assert patient.memory() - memory < 10


@pytest.mark.parametrize("rest", [b"0\r\n" + b"X: x\r\n" * 20_000, b"no chunk"])
def test_a_request_that_was_answered_early_gets_no_second_answer(
    patient: Server, rest: bytes
) -> None:
    with closing(connect(patient)) as wire:
        wire.sendall(head("GET /livez", "Transfer-Encoding: chunked"))
        assert statuses(wire, 1) == [200]
        with suppress(ConnectionError):
            wire.sendall(rest)
        assert read_to_the_end(wire) == b""


def test_a_trailer_is_no_header(tmp_path: Path) -> None:
    token = "correct horse battery staple"
    trailer = f"0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    with serving(tmp_path, token=token) as server:
        chunk = b"%x\r\n%s\r\n" % (len(HERO), HERO)
        assert status_of(server, [POST_CHUNKED + chunk + trailer]) == 401


LINES = b"z\nUpgrade: please\r\nUpgrade: please\r\n" * 100
BODY_OF_LINES = (f"Content-Length: {len(LINES)}", JSON)


@pytest.mark.parametrize("size", [1, 700, 2_048, 10**9])
@pytest.mark.parametrize(
    "line", ["GET /livez", "DELETE /heroes/0", "PUT /heroes/", "POST /heroes/"]
)
def test_a_body_is_never_taken_for_a_head(patient: Server, line: str, size: int) -> None:
    content = head(line, *BODY_OF_LINES) + LINES
    with closing(connect(patient)) as wire:
        wire.sendall(GET + content[: -len(LINES) - 2])
        assert statuses(wire, 1) == [200]
        send_in_pieces(wire, content[-len(LINES) - 2 :] + GET, size)
        assert statuses(wire, 2)[1] == 200
        wire.shutdown(socket.SHUT_WR)
        assert read_to_the_end(wire) == b""


@pytest.mark.parametrize(
    ("line", "status"), [("POST /heroes", 307), ("POST /villains", 404), ("PUT /heroes/", 405)]
)
def test_an_offer_of_http_2_behind_an_early_answer_is_declined_too(
    patient: Server, line: str, status: int
) -> None:
    first = head(line, JSON, f"Content-Length: {len(HERO)}") + HERO
    with closing(connect(patient)) as wire:
        for content, expected in ((first, status), (POST_HERO, 200)):
            wire.sendall(content.replace(b"Host: hero-api", OFFER))
            assert statuses(wire, 1) == [expected]


@pytest.mark.parametrize("empty", [b"", b"\r\n", b"\r\n\r\n"])
def test_an_offer_of_http_2_is_declined_wherever_it_stands(patient: Server, empty: bytes) -> None:
    offering = empty + POST_HERO.replace(b"Host: hero-api", OFFER + 2 * b"\r\nUpgrade: h2c")
    looks_like_one = head("DELETE /heroes/0", *BODY_OF_LINES) + LINES
    with closing(connect(patient)) as wire:
        wire.sendall((GET + offering + offering + looks_like_one) * 3)
        assert statuses(wire, 12) == [200, 200, 200, 404] * 3


def test_a_request_to_connect_is_answered_once(patient: Server) -> None:
    with closing(connect(patient)) as wire:
        wire.sendall(head("CONNECT hero-api:80") + GET)
        assert re.findall(rb"HTTP/1.1 (\d+)", read_to_the_end(wire)) in ([b"400"], [b"405"])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "behind", [b"\0\r\n\r\n", b"}", b"GET /livez HTTP/1.1\r\n\r\n", POST_CHUNKED + b"x\r\n"]
)
def test_a_request_is_answered_whatever_follows_it(
    patient: Server, count: int, behind: bytes
) -> None:
    with closing(connect(patient)) as wire:
        wire.sendall(POST_HERO * count + behind)
        answers = read_to_the_end(wire)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200"] * count
    assert answers.lower().count(b"connection: close") == 1


@pytest.mark.parametrize("size", [1, 20, 10**9])
@pytest.mark.parametrize("content", [POST_HERO, POST_HERO_CHUNKED])
def test_what_a_request_with_an_offer_of_http_2_carries_is_taken(
    patient: Server, content: bytes, size: int
) -> None:
    offering = content.replace(b"Host: hero-api", OFFER)
    with closing(connect(patient)) as wire:
        for _ in range(2):
            send_in_pieces(wire, offering, size)
            assert statuses(wire, 1) == [200]


def test_a_head_of_60_kb_is_taken(patient: Server) -> None:
    request = head("GET /livez", "X: " + "x" * 60_000)
    assert status_of(patient, re.findall(rb"(?s).{1,1000}", request)) == 200


async def test_10000_pipelined_requests_are_all_answered_in_order(patient: Server) -> None:
    before = patient.memory()
    reader, writer = await asyncio.open_connection(patient.host, patient.port)
    writer.write(b"".join(head(f"GET /heroes/x{number}") for number in range(9_999)))
    writer.write(head("GET /livez", "Connection: close"))
    async with asyncio.timeout(UNTOUCHED):
        answers = await reader.read()
    writer.close()
    numbers = [int(number) for number in re.findall(rb'"input":"x(\d+)"', answers)]
    assert numbers == [*range(9_999)]
    assert answers.endswith(b'{"status":"ok"}')
    assert patient.memory() - before < 10


def test_pipelined_requests_of_clients_that_leave_are_forgotten(patient: Server) -> None:
    before = patient.memory()
    largest = before
    for _ in range(20):
        with closing(connect(patient)) as wire:
            wire.sendall(GET * 2_000)
    assert serves(patient)
    largest = max(largest, patient.memory())
    assert until(lambda: patient.memory() - before < 10, within=UNTOUCHED)
    assert largest - before < 10


def test_pipelined_requests_take_no_memory_behind_one_that_has_to_wait(patient: Server) -> None:
    before = patient.memory()
    with (
        closing(sqlite3.connect(patient.file, isolation_level=None)) as other,
        ExitStack() as stack,
    ):
        other.execute("BEGIN IMMEDIATE")  # so that the creates have to wait
        wires = [stack.enter_context(closing(connect(patient))) for _ in range(10)]
        for wire in wires:
            wire.sendall(POST_HERO + GET * 2_000)
        assert serves(patient)
        assert patient.memory() - before < 10
        other.execute("ROLLBACK")
        for wire in wires:
            assert statuses(wire, 2_001) == [200] * 2_001


def test_requests_that_wait_are_kept_once_and_of_those_that_were_not_begun_only_some(
    patient: Server,
) -> None:
    begun, waiting, size = 256, 400, 0.2  # megabytes
    large = post({"name": "Deadpond", "secret_name": "?", "cape": "x" * int(size * MEGABYTE)})
    before = patient.memory()
    with (
        closing(sqlite3.connect(patient.file, isolation_level=None)) as other,
        ExitStack() as stack,
    ):
        other.execute("BEGIN IMMEDIATE")  # so that the creates have to wait
        wires = [stack.enter_context(closing(connect(patient))) for _ in range(begun + waiting)]
        for wire in wires:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(large))
            wire.sendall(large)
        assert serves(patient)
        allowed = 1.4 * begun * size + waiting * size / 8
        # What arrives last is still being read.
        assert until(lambda: patient.memory() - before < allowed, within=UNTOUCHED)
        other.execute("ROLLBACK")
        for wire in wires:
            assert statuses(wire, 1) == [200]


def test_pipelined_requests_are_bounded_however_small_the_pieces_are_that_they_come_in(
    patient: Server,
) -> None:
    before = patient.memory()
    with ExitStack() as stack:
        wires = [stack.enter_context(closing(connect(patient))) for _ in range(20)]
        for _ in range(50):
            for wire in wires:
                wire.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        assert serves(patient)
        assert patient.memory() - before < 10


MIXED = [
    (GET, 200),
    (post(LARGE), 200),
    (head("GET /heroes/x", "Content-Length: 3000") + b" " * 3_000, 422),
    (PUT + HERO, 405),
    (POST_HERO, 200),
    (POST_HERO_CHUNKED, 200),
    (head("POST /heroes/", JSON, "Content-Length: 200000") + b" " * 200_000, 422),
    (head("POST /heroes/", JSON, "Content-Length: 300000") + b" " * 300_000, 413),
    (head("GET /livez", "X: " + "x" * 60_000), 200),
    (head("POST /nowhere", JSON, "Content-Length: 100000") + b" " * 100_000, 404),
]


@pytest.mark.parametrize("size", [1, 7, 1_000, 2_048, 2_049, 70_000, 10**9])
def test_requests_of_every_kind_are_answered_in_order_whatever_pieces_they_come_in(
    patient: Server, size: int
) -> None:
    mixed = [request for request in MIXED if size > 10 or len(request[0]) < 5_000]
    content = b"".join(request for request, _ in mixed * 3)
    with closing(connect(patient)) as wire:
        sending = threading.Thread(target=send_in_pieces, args=(wire, content, size))
        sending.start()
        assert statuses(wire, 3 * len(mixed)) == [status for _, status in mixed * 3]
        sending.join()


def send_in_pieces(wire: socket.socket, content: bytes, size: int) -> None:
    for start in range(0, len(content), size):
        wire.sendall(content[start : start + size])


def statuses(wire: socket.socket, count: int) -> list[int]:
    """Receive so many answers, whose bodies have a length; return their statuses."""
    received = []
    with wire.makefile("rb") as answers:
        for _ in range(count):
            received.append(int(answers.readline().split()[1]))
            size = 0
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            answers.read(size)
    return received


@pytest.mark.parametrize("requests", [[GET], [POST_HERO], [GET] * 2_000, [POST_HERO] * 50])
def test_a_client_that_ends_its_own_side_gets_its_answers(
    patient: Server, requests: list[bytes]
) -> None:
    with closing(connect(patient)) as wire:
        wire.sendall(b"".join(requests))
        wire.shutdown(socket.SHUT_WR)
        content = read_to_the_end(wire)
    assert content.count(b"HTTP/1.1 200 OK\r\n") == len(requests)


def test_a_client_that_ends_its_own_side_amid_a_body_is_closed(patient: Server) -> None:
    with closing(connect(patient)) as wire:
        wire.sendall(GET + POST + HERO[:10])
        wire.shutdown(socket.SHUT_WR)
        assert read_to_the_end(wire).count(b"HTTP/1.1 200 OK\r\n") <= 1


def test_the_log_stays_short_whatever_clients_send(patient: Server) -> None:
    before = log_size(patient)
    for _ in range(100):
        status_of(patient, [head("GET /livez", "Connection: upgrade", "Upgrade: websocket")])
        status_of(patient, [b"nonsense\r\n\r\n"])
    with patient.log.open(encoding="utf-8") as log:
        log.seek(before)
        assert len(log.readlines()) <= 200  # a line an event
