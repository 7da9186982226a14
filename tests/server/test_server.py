"""How `hero-api serve` begins, what it says, and how it ends."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from hero_api.database.postgresql.statements import LOCK
from hero_api.settings import PREFIX
from tests.clusters import Cluster
from tests.command import run
from tests.ports import free_port
from tests.servers import ROOT, Process, launching, open_files, serving

BIN = str(Path(sys.executable).parent)
PROMPT = 5.0  # seconds: several times what the end of a start may take
PATIENCE = 15.0  # seconds: three times what an end may take
HERO = '{"name": "Deadpond", "secret_name": "Dive Wilson"}'
each_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


@contextmanager
def started(directory: Path, *options: str, **settings: str) -> Iterator[tuple[Process, list[str]]]:
    """Start the command with options of its own; yield it and the lines that it begins with."""
    serve = ("-m", "hero_api", "serve")
    with launching(directory, program=serve, options=options, **settings) as process:
        assert process.stdout is not None
        yield process, [process.stdout.readline().rstrip("\n") for _ in range(3)]


def end(process: Process, number: signal.Signals) -> tuple[int, str]:
    """Send a signal; return the exit status and what else was said."""
    process.send_signal(number)
    status = process.wait(PATIENCE)
    assert process.stdout is not None
    return status, process.stdout.read()


def answer_of_livez(line: str) -> None:
    """Wait until the server whose first line this is answers."""
    address = re.search(r"http://([\d.]+):(\d+)", line)
    assert address is not None
    with closing(http.client.HTTPConnection(address[1], int(address[2]))) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200


def test_the_signal_ends_it_as_soon_as_it_says_that_it_listens(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0") as (process, _):
        assert end(process, signal.SIGTERM) == (0, "")
    assert (tmp_path / "stderr").read_text() == ""


@each_signal
def test_the_signal_ends_it_without_a_word_and_leaves_one_file_with_what_was_acknowledged(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serving(tmp_path) as server:
        with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
            connection.request("POST", "/heroes/", HERO, {"Content-Type": "application/json"})
            assert connection.getresponse().status == 200
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE) == 0
        assert server.log.read_text() == ""
        assert server.process.stdout is not None
        assert len(server.process.stdout.readlines()) == 2  # of the three that it began with
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heroes.db", "stderr"]
    assert b"Dive Wilson" in server.file.read_bytes()


def test_clients_that_are_connected_and_idle_do_not_delay_the_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        wire = socket.create_connection((server.host, server.port))
        half = socket.create_connection((server.host, server.port))
        with wire, half:
            half.sendall(b"GET /livez HT")
            wire.sendall(b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n")
            assert b" 200 " in wire.recv(1_000)
            server.process.terminate()
            assert server.process.wait(PATIENCE) == 0


def test_clients_that_are_waited_for_do_not_delay_the_end_and_are_not_logged(
    tmp_path: Path,
) -> None:
    head = f"POST /heroes/ HTTP/1.1\r\nHost: hero-api\r\nContent-Length: {len(HERO)}\r\n\r\n"
    half_a_body = f"{head}{{"
    unread = "GET /heroes/ HTTP/1.1\r\nHost: hero-api\r\n\r\n" * 20
    with serving(tmp_path) as server:
        with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
            hero = HERO.replace("Dive Wilson", "?" * 10_000)
            for _ in range(100):
                connection.request("POST", "/heroes/", hero, {"Content-Type": "application/json"})
                assert connection.getresponse().read()
        with socket.socket() as half, socket.socket() as deaf, socket.socket() as witness:
            for wire, request in (half, half_a_body), (deaf, unread):
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                wire.connect((server.host, server.port))
                wire.sendall(request.encode())
            # The server answers this when it has read that.
            witness.connect((server.host, server.port))
            witness.sendall(b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n")
            assert b" 200 " in witness.recv(1_000)
            server.process.terminate()
            assert server.process.wait(PATIENCE) == 0
        assert server.log.read_text() == ""


def test_what_was_pipelined_before_the_signal_is_all_answered(tmp_path: Path) -> None:
    clients, creates = 4, 20
    head = f"POST /heroes/ HTTP/1.1\r\nHost: hero-api\r\nContent-Length: {len(HERO)}\r\n"
    create = f"{head}Content-Type: application/json\r\n\r\n{HERO}".encode()
    get = b"GET /heroes/1 HTTP/1.1\r\nHost: hero-api\r\n\r\n"
    with serving(tmp_path, synchronous="NORMAL") as server, ExitStack() as stack:
        address = server.host, server.port
        wires = [stack.enter_context(socket.create_connection(address)) for _ in range(clients)]
        for wire in wires:
            wire.sendall((create + get) * creates)
        answers = [wire.recv(1) for wire in wires]
        server.process.terminate()
        for number, wire in enumerate(wires):
            while piece := wire.recv(65_536):
                answers[number] += piece
        assert server.process.wait(PATIENCE) == 0
    for answer in answers:
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2 * creates
        ids = [int(hero_id) for hero_id in re.findall(rb'\{"id":(\d+),', answer)]
        created, got = ids[::2], ids[1::2]
        assert created == sorted({*created})
        assert got == [1] * creates


def test_what_a_crowd_has_sent_before_the_signal_is_all_answered(tmp_path: Path) -> None:
    get = b"GET /heroes/1 HTTP/1.1\r\nHost: hero-api\r\n\r\n"
    with serving(tmp_path) as server, ExitStack() as stack:
        address = server.host, server.port
        wires = [stack.enter_context(socket.create_connection(address)) for _ in range(300)]
        for wire in wires:
            wire.sendall(get)
            assert wire.recv(65_536).startswith(b"HTTP/1.1 404 ")
        server.process.send_signal(signal.SIGSTOP)
        for wire in wires:
            wire.sendall(get)
        server.process.send_signal(signal.SIGCONT)
        answers = [wires[0].recv(65_536)]
        server.process.terminate()
        answers += [wire.recv(65_536) for wire in wires[1:]]
        assert server.process.wait(PATIENCE) == 0
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 404 "}


def test_what_comes_on_an_idle_connection_after_the_signal_is_answered(tmp_path: Path) -> None:
    # As a proxy sends it, which keeps its connections and has not been told yet.
    def ask(wire: socket.socket) -> bytes:
        wire.sendall(b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n")
        return wire.recv(65_536).lower()

    with serving(tmp_path) as server, ExitStack() as stack:
        address = server.host, server.port
        witness, *wires = [stack.enter_context(socket.create_connection(address)) for _ in range(9)]
        for wire in wires:
            assert b" 200 ok" in ask(wire)
        server.process.terminate()
        while b"connection: close" not in ask(witness):
            pass
        answers = [ask(wire) for wire in wires]
        assert server.process.wait(PATIENCE) == 0
    assert all(b" 200 ok" in each and b"connection: close" in each for each in answers)


def test_the_end_of_its_terminal_is_ignored_under_nohup(tmp_path: Path) -> None:
    with serving(tmp_path, prefix=("nohup",)) as server:
        server.process.send_signal(signal.SIGHUP)
        with closing(http.client.HTTPConnection(server.host, server.port)) as connection:
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0


def test_it_is_not_ready_from_the_signal_on_while_what_was_read_is_still_answered(
    tmp_path: Path,
) -> None:
    head = f"POST /heroes/ HTTP/1.1\r\nHost: hero-api\r\nContent-Length: {len(HERO)}\r\n"
    create = f"{head}Content-Type: application/json\r\n\r\n{HERO}".encode()
    probe = b"GET /readyz HTTP/1.1\r\nHost: hero-api\r\n\r\n"
    with serving(tmp_path, synchronous="NORMAL") as server:
        address = (server.host, server.port)
        with socket.create_connection(address) as busy, socket.create_connection(address) as prober:
            prober.sendall(probe)
            assert prober.recv(65_536).startswith(b"HTTP/1.1 200 ")
            busy.sendall(create * 200)
            assert busy.recv(1)
            # More of them than are answered before the server looks for signals.
            prober.sendall(probe * 500)
            server.process.terminate()
            content = b""
            with suppress(ConnectionError):
                while piece := prober.recv(65_536):
                    content += piece
    assert {*re.findall(rb"HTTP/1.1 (\d+)", content)} == {b"200", b"503"}
    assert b"stopping" in content[content.rindex(b"HTTP/1.1 503 ") :]


def test_a_500_keeps_the_connection_and_is_one_line_of_the_log(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        closing(http.client.HTTPConnection(server.host, server.port)) as connection,
        closing(sqlite3.connect(server.file, isolation_level=None)) as other,
    ):
        connection.connect()
        first = connection.sock
        ids = []
        for names, status in (("hero", "away"), 500), (("away", "hero"), 200), (("hero", "x"), 500):
            other.execute("ALTER TABLE {} RENAME TO {}".format(*names))
            connection.request("POST", "/heroes/", HERO, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            detail = json.loads(answer.read()).get("detail", "")
            assert answer.status == status
            assert connection.sock is first
            assert "Traceback" not in detail
            if status == 500:
                assert answer.headers["X-Request-ID"] in detail
                ids.append(answer.headers["X-Request-ID"])
        lines = server.log.read_text().splitlines()
    assert lines == [
        f"request {request_id}: POST '/heroes/': create_hero: SQLITE_ERROR: no such table: hero"
        for request_id in ids
    ]


# Signals before it serves

PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child")


def may_be_process_1() -> bool:
    with suppress(FileNotFoundError):
        return (
            subprocess.run([*PROCESS_1, "true"], check=False, capture_output=True).returncode == 0
        )
    return False


def number_of(process: subprocess.Popen[str], prefix: tuple[str, ...]) -> int:
    """Return the process that Python runs in: itself, or the only child of what it was run by."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(children.read_text(encoding="ascii")) if prefix else process.pid


@each_signal
@pytest.mark.parametrize("program", [("-m", "hero_api"), (shutil.which("hero-api", path=BIN),)])
@pytest.mark.parametrize(
    "prefix",
    [
        (),
        pytest.param(
            PROCESS_1,
            marks=pytest.mark.skipif(not may_be_process_1(), reason="it may make no namespace"),
        ),
    ],
    ids=["a process", "process 1"],
)
def test_a_signal_that_comes_while_it_is_imported_ends_it_with_status_0(
    tmp_path: Path, prefix: tuple[str, ...], program: tuple[str, ...], number: signal.Signals
) -> None:
    environment = os.environ | {f"{PREFIX}DATABASE_URL": f"sqlite:///{tmp_path}/heroes.db"}
    with subprocess.Popen(
        [*prefix, sys.executable, "-X", "importtime", *program, "serve", "--port", "0"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            # The first of what is not Python's own.
            while "typer" not in process.stderr.readline():
                assert process.poll() is None
            os.kill(number_of(process, prefix), number)
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "")
    assert [line for line in errors.splitlines() if not line.startswith("import time:")] == []
    assert list(tmp_path.iterdir()) == []


def test_the_signal_is_waited_for_before_anything_but_python_is_imported() -> None:
    script = "import hero_api.__main__, sys; print(*{name.split('.')[0] for name in sys.modules})"
    isolated = [sys.executable, "-S", "-c", script]
    ended = subprocess.run(isolated, cwd=ROOT, check=True, capture_output=True, text=True)
    assert {*ended.stdout.split()} <= {*sys.stdlib_module_names, "__main__", "hero_api"}


@contextmanager
def silent() -> Iterator[socket.socket]:
    """Listen as a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@each_signal
def test_the_signal_ends_it_while_the_start_waits_for_a_silent_postgresql(
    tmp_path: Path, number: signal.Signals
) -> None:
    with silent() as listener:
        url = f"postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/?connect_timeout=600"
        with launching(tmp_path, database_url=url) as process:
            connection, _ = listener.accept()
            with connection:
                assert end_of_start(process, number) < PROMPT
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_signal_ends_it_while_the_start_waits_for_a_statement(
    tmp_path: Path, cluster: Cluster, workers: str
) -> None:
    url = cluster.new_schema()
    with cluster.connect() as other:
        other.execute(f"SELECT pg_advisory_lock({LOCK})")
        with launching(
            tmp_path, options=["--workers", workers], database_url=url, busy_timeout=600
        ) as process:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while other.execute(waiting).fetchone() == (0,):
                assert process.poll() is None
                time.sleep(0.02)
            assert end_of_start(process, signal.SIGTERM) < PROMPT
    assert (tmp_path / "stderr").read_text() == ""


def test_the_signal_ends_it_while_the_start_waits_for_the_lock_of_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "heroes.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with launching(tmp_path, busy_timeout=600) as process:
            while str(file) not in open_files(process):
                assert process.poll() is None
                time.sleep(0.02)
            assert end_of_start(process, signal.SIGTERM) < PROMPT
    assert (tmp_path / "stderr").read_text() == ""


def end_of_start(process: Process, number: signal.Signals) -> float:
    """Send a signal to what does not serve yet; return how many seconds it took to end."""
    began = time.monotonic()
    assert end(process, number) == (0, "")
    return time.monotonic() - began


def test_a_second_signal_ends_it_too(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0") as (process, lines):
        answer_of_livez(lines[0])
        process.send_signal(signal.SIGTERM)
        end(process, signal.SIGTERM)
    assert (tmp_path / "stderr").read_text() == ""


def test_it_says_where_it_listens_where_the_heroes_are_and_how_durable_they_are(
    tmp_path: Path,
) -> None:
    with started(tmp_path, "--port", "0") as (_, lines):
        listening, heroes, durability = lines
    assert re.search(r"Listening on +http://127\.0\.0\.1:[1-9]\d*\b", listening)
    assert f"{tmp_path}/heroes.db" in heroes
    assert "FULL" in durability
    assert "power cut" in durability
    # Nobody looks at a terminal.
    assert "\x1b" not in "".join(lines)


def test_it_says_what_normal_gives_up(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", synchronous="NORMAL") as (_, lines):
        assert "NORMAL" in lines[2]
        assert "power cut may take back" in lines[2]


def test_a_long_path_with_square_brackets_is_said_as_it_is_in_one_line(tmp_path: Path) -> None:
    directory = tmp_path / ("[bold]" + "long" * 50)
    directory.mkdir()
    with started(directory, "--port", "0") as (_, lines):
        assert f"{directory}/heroes.db" in lines[1]


def test_it_listens_on_the_address_that_it_says_when_it_says_it(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        closing(http.client.HTTPConnection(server.host, server.port)) as connection,
    ):
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200


@pytest.mark.parametrize("streams", ["<&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_it_serves_with_its_standard_streams_closed_or_full(tmp_path: Path, streams: str) -> None:
    port = free_port()
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}
    environment[f"{PREFIX}DATABASE_URL"] = f"sqlite:///{tmp_path}/heroes.db"
    serve = [sys.executable, "-m", "hero_api", "serve", "--port", str(port)]
    with subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {streams}', *serve], cwd=ROOT, env=environment
    ) as process:
        try:
            end_by = time.monotonic() + 2 * PATIENCE
            answer = b""
            while not answer and process.poll() is None and time.monotonic() < end_by:
                time.sleep(0.02)
                with suppress(ConnectionRefusedError):
                    for _ in range(3):
                        with socket.create_connection(("127.0.0.1", port)) as wire:
                            wire.sendall(b"GET /readyz HTTP/1.1\r\nHost: hero-api\r\n\r\n")
                            answer = wire.recv(1_000)
            assert b" 200 " in answer
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with started(tmp_path, "--host", "::1", "--port", "0") as (_, lines):
        address = re.search(r"http://\[::1\]:(\d+)", lines[0])
        assert address is not None
        with closing(http.client.HTTPConnection("::1", int(address[1]))) as connection:
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200


def test_two_servers_on_port_0_listen_on_two_ports(tmp_path: Path) -> None:
    with serving(tmp_path) as one, serving(tmp_path) as other:
        assert one.port != other.port


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1", "not a host"])
def test_an_address_that_is_not_this_machines_stops_the_start_with_one_line(
    tmp_path: Path, host: str
) -> None:
    url = f"sqlite:///{tmp_path}/heroes.db"
    ended = run("serve", "--host", host, "--port", "0", database_url=url)
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert host in line


def test_connections_are_counted_also_while_they_are_idle(tmp_path: Path) -> None:
    with serving(tmp_path) as server, httpx.Client() as client:
        url = f"http://{server.host}:{server.port}/metrics"
        with closing(socket.create_connection((server.host, server.port))) as idle:
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: hero-api\r\n\r\n")
            assert idle.recv(1_000)
            text = client.get(url).text
    assert "hero_api_connections 2.0" in text
    assert "hero_api_requests_under_way 1.0" in text
