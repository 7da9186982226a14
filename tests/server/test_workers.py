"""`hero-api serve --workers N`, as processes of their own."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from hero_api.database.sqlite.engine import has_wal_reset_fault
from tests.clusters import Cluster
from tests.command import run
from tests.servers import Server, launching, serving

SOON = 20.0  # seconds: far more than anything here takes
DEADPOND = {"name": "Deadpond", "secret_name": "Dive Wilson"}
# Each time on a connection of its own, for which httpx would load all certificates, 20 ms long.
ask = partial(httpx.request, verify=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Iterator[Server]:
    """Yield a server of three workers on PostgreSQL, which no test stops."""
    directory, url = tmp_path_factory.mktemp("shared"), cluster.new_schema()
    with serving(directory, options=["--workers", "3"], database_url=url) as server:
        yield server


@pytest.fixture
def three(tmp_path: Path, cluster: Cluster) -> Iterator[Server]:
    """Yield such a server that is the test's own."""
    url = cluster.new_schema()
    with serving(tmp_path, options=["--workers", "3"], database_url=url) as server:
        yield server


def workers(server: Server) -> list[int]:
    process = server.process.pid
    text = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return [int(number) for number in text.split()]


def lives(process: int) -> bool:
    """Say whether the process has not ended, waited for or not."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at(server: Server, path: str) -> str:
    return f"http://{server.host}:{server.port}{path}"


def create(server: Server) -> int:
    response = ask("POST", at(server, "/heroes/"), json=DEADPOND, timeout=SOON)
    assert response.status_code == 200
    hero_id: int = response.json()["id"]
    return hero_id


def test_there_are_as_many_workers_as_were_asked_for(shared: Server) -> None:
    assert len(workers(shared)) == 3


def test_workers_share_the_heroes_and_the_address(shared: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        ids = sorted(threads.map(lambda _: create(shared), range(48)))
    assert ids == list(range(ids[0], ids[0] + 48))


def test_what_one_worker_answered_every_worker_reads_at_once(shared: Server) -> None:
    for _ in range(20):
        hero_id = create(shared)
        assert ask("GET", at(shared, f"/heroes/{hero_id}")).status_code == 200


def test_the_worker_that_answers_says_in_its_metrics_which_one_it_is(shared: Server) -> None:
    text = ask("GET", at(shared, "/metrics")).text
    [named] = {int(number) for number in re.findall(r'worker="(\d+)"', text)}
    assert named in workers(shared)
    assert ask("GET", at(shared, "/readyz")).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_worker_and_the_status_is_0(
    three: Server, number: signal.Signals
) -> None:
    processes = workers(three)
    three.process.send_signal(number)
    assert three.process.wait(SOON) == 0
    assert not any(lives(process) for process in processes)
    # The announcement was made once.
    assert three.process.stdout is not None
    assert [line.split()[0] for line in three.process.stdout] == ["Heroes", "Durability"]
    assert three.log.read_text() == ""


def test_a_signal_ends_a_worker_that_stands_still(three: Server) -> None:
    processes = workers(three)
    os.kill(processes[1], signal.SIGSTOP)
    three.process.terminate()
    assert three.process.wait(SOON) == 0
    assert not any(lives(process) for process in processes)


def test_a_worker_that_dies_is_replaced_while_the_others_serve(three: Server) -> None:
    before = workers(three)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(workers(three)) == 3 and before[0] not in workers(three))
    assert set(before[1:]) < set(workers(three))
    assert create(three) == 1
    assert f"worker {before[0]} ended" in three.log.read_text()


FORK_FAILS = """
import errno, os, sys
from pathlib import Path
from hero_api.cli import main
fails = Path(sys.argv.pop(1))
def fork(fork=os.fork):
    if fails.exists():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = fork
main()
"""


@pytest.fixture
def fails(tmp_path: Path) -> Path:
    """Return a path: while there is something, the supervisor of `forking` cannot fork."""
    return tmp_path / "fails"


@pytest.fixture
def forking(tmp_path: Path, cluster: Cluster, fails: Path) -> Iterator[Server]:
    """Yield a server of three workers."""
    program = ("-c", FORK_FAILS, str(fails), "serve", "--port", "0", "--workers", "3")
    with serving(tmp_path, program=program, database_url=cluster.new_schema()) as server:
        yield server


def fail_to_fork(server: Server, killed: list[int]) -> None:
    """Kill workers, and wait until one could not be replaced twice."""
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.log.read_text().count("temporarily unavailable") > 1)


def test_a_worker_that_cannot_be_replaced_now_is_replaced_later_while_the_others_serve(
    forking: Server, fails: Path
) -> None:
    before = workers(forking)
    fails.touch()
    fail_to_fork(forking, before[:1])
    assert workers(forking) == before[1:]
    assert create(forking) == 1
    fails.unlink()
    wait_until(lambda: len(workers(forking)) == 3)


def test_all_workers_are_replaced_and_no_descriptor_is_left(forking: Server, fails: Path) -> None:
    descriptors = forking.descriptors()
    fails.touch()
    fail_to_fork(forking, workers(forking))
    fails.unlink()
    wait_until(lambda: len(workers(forking)) == 3)
    assert create(forking) == 1
    assert forking.descriptors() == descriptors


THREADED = """
import threading
from hero_api.cli import main
threading.Thread(target=threading.Event().wait, daemon=True).start()
main()
"""


def test_a_worker_is_replaced_where_the_supervisor_has_threads(
    tmp_path: Path, cluster: Cluster
) -> None:
    program = ("-c", THREADED, "serve", "--port", "0", "--workers", "2")
    with serving(tmp_path, program=program, database_url=cluster.new_schema()) as server:
        for worker in workers(server):
            os.kill(worker, signal.SIGKILL)
        assert create(server) == 1
        server.process.terminate()
        assert server.process.wait(SOON) == 0


def test_a_signal_ends_it_while_a_worker_cannot_be_replaced(forking: Server, fails: Path) -> None:
    processes = workers(forking)
    fails.touch()
    fail_to_fork(forking, processes[:1])
    forking.process.terminate()
    assert forking.process.wait(SOON) == 0
    assert not any(lives(process) for process in processes)


def test_a_fork_that_fails_at_the_start_is_one_line_and_a_failure(
    tmp_path: Path, cluster: Cluster
) -> None:
    ended = run(
        *("serve", "--port", "0", "--workers", "2"),
        database_url=cluster.new_schema(),
        program=("-c", FORK_FAILS, str(tmp_path)),
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert "temporarily unavailable" in line


def test_no_worker_outlives_its_supervisor(three: Server) -> None:
    processes = workers(three)
    three.kill()
    wait_until(lambda: not any(lives(process) for process in processes))


def test_workers_that_cannot_start_are_one_line_and_a_failure(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/heroes"
    with launching(tmp_path, options=["--workers", "3"], database_url=url) as process:
        assert process.wait(SOON) == 1
    [line] = (tmp_path / "stderr").read_text().splitlines()
    assert "127.0.0.1" in line


# On SQLite


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((4, 0, 0), False),
    ],
)
def test_the_versions_with_the_wal_reset_fault_are_known(
    version: tuple[int, ...], has_it: object
) -> None:
    assert has_wal_reset_fault(version) is has_it


SERVE = """
import sys, sqlite3
sqlite3.sqlite_version_info = tuple(map(int, sys.argv.pop(1).split(".")))
sqlite3.sqlite_version = ".".join(map(str, sqlite3.sqlite_version_info))
from hero_api.cli import main
main()
"""


def test_several_workers_on_a_faulty_sqlite_are_refused_with_the_reason(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SERVE, "3.51.2", "serve", "--port", "0", "--workers", "2"],
        env=os.environ | {"HERO_API_DATABASE_URL": f"sqlite:///{tmp_path}/heroes.db"},
        capture_output=True,
        text=True,
        timeout=SOON,
        check=False,
    )
    [line] = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert all(words in line for words in ("3.51.2", "sqlite.org/wal.html", "PostgreSQL"))
    assert list(tmp_path.iterdir()) == []


def test_several_workers_serve_one_file_on_a_sqlite_without_the_fault(tmp_path: Path) -> None:
    file = tmp_path / "heroes.db"
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "3.51.3", "serve", "--port", "0", "--workers", "2"],
        env=os.environ | {"HERO_API_DATABASE_URL": f"sqlite:///{file}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[2]
            for _ in range(4):
                assert ask("POST", f"{address}/heroes/", json=DEADPOND).status_code == 200
            process.terminate()
            assert process.wait(SOON) == 0
        finally:
            process.kill()
    assert sqlite3.connect(file).execute("SELECT count(*) FROM hero").fetchone() == (4,)
