"""Where `hero-api serve` listens, for whom, and what it logs."""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path

import pytest

from hero_api.database.sqlite.engine import has_wal_reset_fault
from tests.command import run
from tests.servers import ROOT, Process, launching

pytestmark = pytest.mark.sqlite  # the engine makes no difference to it

PATIENCE = 20.0  # seconds
GET = b"GET /livez HTTP/1.1\r\nHost: hero-api\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"


def announcement(process: Process) -> str:
    assert process.stdout is not None
    first, *_ = [process.stdout.readline() for _ in range(3)]
    return first.removesuffix(" (documentation at /docs)\n")


def answer(wire: socket.socket) -> int:
    """Ask whether the service lives; return the status of the answer."""
    wire.settimeout(PATIENCE)
    wire.sendall(GET)
    response = HTTPResponse(wire)
    response.begin()
    response.read()
    return response.status


def dial(path: Path) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX)
    wire.settimeout(PATIENCE)
    wire.connect(str(path))
    return wire


def end(process: Process) -> str:
    """End the service; return what else it printed."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert process.stdout is not None
    return process.stdout.read()


def refusal(*options: str, program: Sequence[str] = ()) -> str:
    """Return the one line of a start that is refused."""
    url = "sqlite:////nonexistent/heroes.db"
    ended = run("serve", *options, database_url=url, program=program)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    return ended.stderr


@contextmanager
def started(directory: Path, *options: str) -> Iterator[Process]:
    with launching(directory, program=("-m", "hero_api", "serve"), options=options) as process:
        yield process


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for localhost and its key."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    try:
        subprocess.run(
            [*command, "-keyout", str(path), "-out", f"{path}.certificate"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed (Debian: apt-get install openssl)")
    with path.open("a") as both:
        both.write(Path(f"{path}.certificate").read_text())
    return path


# A path


def test_it_listens_on_a_path_that_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(tmp_path, "--uds", str(path)) as process:
        assert announcement(process) == f"Listening on unix:{path}"
        with dial(path) as wire:
            assert answer(wire) == 200
        assert path.stat().st_mode & 0o777 == 0o666
        assert end(process) == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["heroes.db", "stderr"]


def test_a_successor_takes_over_the_path_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(tmp_path, "--uds", str(path)) as old:
        announcement(old)
        with started(tmp_path, "--uds", str(path)) as new:
            announcement(new)
            end(old)
            with dial(path) as wire:
                assert answer(wire) == 200
            end(new)
    assert not path.exists()


def test_clients_that_are_connected_and_not_yet_accepted_are_answered_at_the_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    with started(tmp_path, "--uds", str(path)) as process:
        announcement(process)
        process.send_signal(signal.SIGSTOP)
        with dial(path) as wire:
            wire.sendall(GET)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            with wire.makefile("rb") as response:
                assert response.read().startswith(b"HTTP/1.1 200")
        assert process.wait(PATIENCE) == 0


def test_a_path_with_a_file_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    assert "no socket" in refusal("--uds", str(path))
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be_used_is_refused() -> None:
    assert "/nonexistent/socket: No such file or directory" in refusal(
        "--uds", "/nonexistent/socket"
    )
    assert "README.md/socket: Not a directory" in refusal("--uds", "README.md/socket")
    assert "there is a file that is no socket" in refusal("--uds", "/")


# A socket that is handed over


def test_it_serves_on_a_socket_that_is_handed_over(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        program = ["-c", "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.executable, "]
        program[1] += "[sys.executable, '-m', 'hero_api', 'serve', '--fd', '3'])"
        environment = os.environ | {"HERO_API_DATABASE_URL": f"sqlite:///{tmp_path}/heroes.db"}
        with subprocess.Popen(
            [sys.executable, *program, str(listener.fileno())],
            cwd=ROOT,
            env=environment,
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert announcement(process) == f"Listening on http://127.0.0.1:{port}"
                with socket.create_connection(("127.0.0.1", port)) as wire:
                    assert answer(wire) == 200
                end(process)
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--fd", "77"], "Bad file descriptor"),
        (["--fd", "0"], "non-socket"),
        (["--fd", "3", "--uds", "socket"], "choose one"),
    ],
)
def test_a_descriptor_that_cannot_be_used_is_refused(options: list[str], reason: str) -> None:
    assert reason in refusal(*options, program=("-m", "hero_api"))  # whose descriptors are known


# TLS


def test_it_serves_https(tmp_path: Path, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=f"{certificate}.certificate")
    with started(tmp_path, "--port", "0", "--ssl-certfile", str(certificate)) as process:
        address = announcement(process)
        assert address.startswith("Listening on https://127.0.0.1:")
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(GET)  # which is no handshake
            assert plain.recv(1_000)[:5] != b"HTTP/"
        with (
            socket.create_connection(("127.0.0.1", port)) as wire,
            context.wrap_socket(wire, server_hostname="localhost") as encrypted,
        ):
            assert answer(encrypted) == 200
            assert answer(encrypted) == 200
        end(process)
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--ssl-keyfile", "key.pem"], "needs --ssl-certfile"),
        (["--ssl-certfile", "/nonexistent"], "No such file"),
        (["--ssl-certfile", "README.md"], "PEM"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(options: list[str], reason: str) -> None:
    assert reason in refusal("--port", "0", *options)


def test_a_start_that_is_refused_leaves_no_socket_behind(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert "PEM" in refusal("--uds", str(path), "--ssl-certfile", "README.md")
    assert not path.exists()


def test_what_is_no_socket_that_listens_stays_open_and_is_refused() -> None:
    with socket.socket() as other:
        assert "listens" in refusal("--fd", str(other.fileno()))
        os.fstat(other.fileno())


def test_the_version_is_the_package_s() -> None:
    said = run("--version").stdout
    assert said.startswith("hero-api ")
    assert said.count(".") >= 2


# Several processes


@pytest.mark.skipif(has_wal_reset_fault(), reason="this SQLite takes one process")
def test_several_processes_serve_on_a_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(tmp_path, "--uds", str(path), "--workers", "2") as process:
        announcement(process)
        with dial(path) as wire:
            assert answer(wire) == 200
        end(process)
    assert not path.exists()
