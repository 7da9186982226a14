"""The file under the service: how it is opened, and what is done when it is not what it was."""

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from hero_api.app import create_app
from hero_api.database.sessions import Database, open_database
from hero_api.database.sqlite.file import check_log, is_mounted
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running
from tests import command
from tests.servers import UNPRIVILEGED, Server, serving

pytestmark = pytest.mark.sqlite  # what it does to the file is SQLite's

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
HEROES = 1_000
PAGE = 4_096  # bytes
PATIENCE = 10.0  # seconds: several times what is promised


def settings_for(path: Path, **values: object) -> Settings:
    return Settings.model_validate({"database_url": f"sqlite:///{path}"} | values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heroes.db"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a database file of a thousand heroes, as the service leaves it behind."""
    path = tmp_path_factory.mktemp("sound") / "heroes.db"
    asyncio.run(_make(path))
    content = path.read_bytes()
    assert len(content) > 40 * PAGE
    return content


async def _make(path: Path) -> None:
    async with running(create_app(settings_for(path))) as client:
        await asyncio.gather(
            *(
                client.post("/heroes/", json={"name": f"Hero {number}", "secret_name": "?" * 100})
                for number in range(HEROES)
            )
        )


def state(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory and what it holds."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def kept(directory: Path) -> dict[str, bytes]:
    """Return what must not be touched: all but the index of a log, which any reader makes anew."""
    files = state(directory)
    return {name: content for name, content in files.items() if not name.endswith("-shm")}


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read(path: Path) -> bytes:
    return path.read_bytes()


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


async def refusal(path: Path, **values: object) -> str:
    """Return what is said when the database is refused; it must be one line, and touch nothing."""
    before = kept(path.parent)
    with pytest.raises(StartError) as caught:
        async with open_database(settings_for(path, **values), {}, [heroes.table]):
            pytest.fail("it was opened")
    assert kept(path.parent) == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


# What the service opens, and how


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with open_database(settings, {}, [heroes.table]) as database:
        yield database


async def pragma(session: AsyncSession, name: str) -> object:
    return (await (await session.connection()).execute(text(f"PRAGMA {name}"))).scalar()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("busy_timeout", 5_000),
        ("journal_size_limit", 67_108_864),
        ("temp_store", 2),
        ("query_only", 0),
    ],
)
async def test_the_writing_connection_is_set_up(
    database: Database, name: str, value: object
) -> None:
    async with database.write_session() as session:
        assert await pragma(session, name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("foreign_keys", 1), ("busy_timeout", 5_000), ("temp_store", 2), ("query_only", 1)],
)
async def test_a_reading_connection_is_set_up(database: Database, name: str, value: object) -> None:
    async with database.read_session() as session:
        assert await pragma(session, name) == value


async def test_normal_is_what_the_writing_connection_gets_when_it_is_set(path: Path) -> None:
    async with (
        open_database(settings_for(path, synchronous="NORMAL"), {}, [heroes.table]) as database,
        database.write_session() as session,
    ):
        assert await pragma(session, "synchronous") == 1


async def test_a_write_through_a_read_session_fails(database: Database) -> None:
    async with database.read_session() as session:
        connection = await session.connection()
        with pytest.raises(OperationalError, match="readonly"):
            await connection.execute(text("INSERT INTO hero (name, secret_name) VALUES ('a', 'b')"))


async def test_a_read_session_leaves_no_transaction_open(
    database: Database, settings: Settings
) -> None:
    async with database.read_session() as session:
        await (await session.connection()).execute(text("SELECT * FROM hero"))
        with closing(sqlite3.connect(settings.path)) as other:
            busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert not busy


async def test_a_clean_close_leaves_one_file(settings: Settings, tmp_path: Path) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        await asyncio.gather(*(client.get("/heroes/1") for _ in range(10)))
    assert [*state(tmp_path)] == ["heroes.db"]


async def test_a_clean_close_leaves_no_thread(settings: Settings) -> None:
    before = {*threading.enumerate()}
    async with running(create_app(settings)) as client:
        await asyncio.gather(client.post("/heroes/", json=HERO), client.get("/heroes/"))
    assert left_of(before) == set()


def left_of(before: set[threading.Thread]) -> set[threading.Thread]:
    """Return the threads that are new and do not end."""
    for thread in {*threading.enumerate()} - before:
        thread.join(PATIENCE)
    return {*threading.enumerate()} - before


async def test_a_refusal_leaves_no_thread(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE hero (cape TEXT)")
    before = {*threading.enumerate()}
    await refusal(path)
    assert left_of(before) == set()


@pytest.mark.parametrize(
    "name", ["heroes 1.db", "100%.db", "100%zz.db", "a#b.db", "Zoë.db", "heroes", "a'b&c;d.db"]
)
async def test_the_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    async with running(create_app(settings_for(tmp_path / name))) as client:
        await client.post("/heroes/", json=HERO)
    assert [*state(tmp_path)] == [name]


async def test_an_empty_file_is_an_empty_database(path: Path) -> None:
    write(path, b"")
    async with running(create_app(settings_for(path))) as client:
        assert (await client.get("/heroes/")).json() == []


async def test_two_applications_open_one_file_at_once_and_see_each_others_heroes(
    settings: Settings,
) -> None:
    first, second = create_app(settings), create_app(settings)
    async with running(first) as one, running(second) as other:
        answers = await asyncio.gather(
            *(client.post("/heroes/", json=HERO) for client in [one, other] * 20)
        )
        assert [answer.status_code for answer in answers] == [200] * 40
        heroes = (await one.get("/heroes/")).json()
        assert (await other.get("/heroes/")).json() == heroes
        assert sorted(answer.json()["id"] for answer in answers) == [hero["id"] for hero in heroes]


async def test_one_application_goes_on_when_another_on_its_file_has_ended(
    settings: Settings,
) -> None:
    async with running(create_app(settings)) as client:
        async with running(create_app(settings)) as other:
            await other.post("/heroes/", json=HERO)
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        assert len((await client.get("/heroes/")).json()) == 2


async def test_several_open_a_file_that_is_not_there_at_once(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        await asyncio.gather(
            *(
                stack.enter_async_context(open_database(settings, {}, [heroes.table]))
                for _ in range(4)
            )
        )


# A file that is deleted or replaced while the service runs


async def assert_writes_are_refused(client: httpx.AsyncClient) -> None:
    """Each write and /readyz are answered 503 at once, and say why."""
    async with asyncio.timeout(PATIENCE):
        answers = [
            await client.post("/heroes/", json=HERO),
            await client.patch("/heroes/1", json={"age": 1}),
            await client.delete("/heroes/1"),
            await client.get("/readyz"),
        ]
    assert [answer.status_code for answer in answers] == [503] * 4
    for answer in answers:
        assert "deleted or replaced" in answer.json()["detail"]


@pytest.fixture
async def one_hero(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client of a service with one hero."""
    await client.post("/heroes/", json=HERO)
    return client


async def test_the_process_lives_and_writes_are_refused_when_the_file_was_deleted(
    one_hero: httpx.AsyncClient, path: Path
) -> None:
    delete(path)
    await assert_writes_are_refused(one_hero)
    assert (await one_hero.get("/livez")).status_code == 200


async def test_no_new_file_appears_in_the_place_of_one_that_was_deleted(
    settings: Settings, path: Path
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        delete(path)
        await asyncio.gather(
            *(client.get(f"/heroes/?limit={limit}") for limit in range(10)),
            *(client.get("/heroes/1") for _ in range(10)),
            client.get("/heroes/?count=true"),
            client.post("/heroes/", json=HERO),
        )
        assert path.name not in state(path.parent)
    assert path.name not in state(path.parent)


async def test_reads_of_a_file_that_was_deleted_are_what_it_held_or_503(
    one_hero: httpx.AsyncClient, path: Path
) -> None:
    delete(path)
    answers = await asyncio.gather(*(one_hero.get("/heroes/1") for _ in range(20)))
    for answer in answers:
        assert answer.status_code == 503 or answer.json()["name"] == "Deadpond"


async def test_a_file_that_is_moved_away_and_put_back_is_written_again(
    one_hero: httpx.AsyncClient, path: Path
) -> None:
    move(path, "away")
    await assert_writes_are_refused(one_hero)
    move(path.with_name("away"), path.name)
    assert (await one_hero.post("/heroes/", json=HERO)).status_code == 200
    assert (await one_hero.get("/readyz")).status_code == 200


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_writes_are_refused_when_a_file_beside_was_deleted_and_all_is_there_after_a_restart(
    settings: Settings, path: Path, suffix: str
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        delete(path.with_name(path.name + suffix))
        await assert_writes_are_refused(client)
        answers = await read_at_once(client)
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert "[]" not in {answer.text for answer in answers}
    async with running(create_app(settings)) as client:
        assert (await client.get("/heroes/1")).json()["name"] == "Deadpond"
        assert (await client.post("/heroes/", json=HERO)).status_code == 200


@pytest.fixture
def replacement(tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """Another database of heroes and its write-ahead log, as they are while it is in use."""
    directory = tmp_path / "other"
    directory.mkdir()
    with closing(sqlite3.connect(directory / "heroes.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, secret_name TEXT)"
        )
        connection.execute("INSERT INTO hero VALUES (1, 'Replacement', 1, '?')")
        connection.commit()
        content = state(directory)
        yield {name: content[name] for name in ("heroes.db", "heroes.db-wal")}


def put(path: Path, files: dict[str, bytes]) -> None:
    """Put files in place of others of their names, as a restore or a deployment does."""
    for name, content in files.items():
        new = path.with_name("new")
        new.write_bytes(content)
        new.rename(path.with_name(name))


async def test_writes_are_refused_when_the_file_was_replaced(
    one_hero: httpx.AsyncClient, path: Path, sound: bytes
) -> None:
    put(path, {path.name: sound})
    await assert_writes_are_refused(one_hero)


async def test_reads_do_not_mix_a_file_with_the_one_that_replaced_it(
    one_hero: httpx.AsyncClient, path: Path, replacement: dict[str, bytes]
) -> None:
    put(path, replacement)
    answers = await read_at_once(one_hero)
    assert [answer.text for answer in answers if "Replacement" in answer.text] == []


async def read_at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
    """Read through several queues at once, and so through several connections."""
    paths = ["/heroes/1", "/heroes/?limit=5", "/heroes/?count=true", "/readyz"]
    return await asyncio.gather(*(client.get(path) for path in paths))


async def test_a_replacement_stays_as_it_is_while_the_service_runs_and_when_it_ends(
    settings: Settings, path: Path, sound: bytes
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        put(path, {path.name: sound})
        await read_at_once(client)
        await client.post("/heroes/", json=HERO)
    left = state(path.parent)
    assert left[path.name] == sound
    # SQLite leaves the old file's WAL where it cannot tell whose it is: nothing may be in it.
    assert not left.get(f"{path.name}-wal")


async def test_the_write_ahead_log_of_a_replacement_is_not_deleted_at_the_end(
    settings: Settings, path: Path, replacement: dict[str, bytes]
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        put(path, replacement)
        await read_at_once(client)
        await client.post("/heroes/", json=HERO)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM hero").fetchall() == [("Replacement",)]


async def test_a_service_that_starts_anew_serves_the_replacement(
    settings: Settings, path: Path, sound: bytes
) -> None:
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=HERO)
        put(path, {path.name: sound})
        await client.post("/heroes/", json=HERO)
    async with running(create_app(settings)) as client:
        answer = await client.get("/heroes/?count=true")
    assert answer.headers["X-Total-Count"] == str(HEROES)


async def test_a_service_does_not_start_on_a_replacement_before_the_one_on_its_predecessor_ends(
    path: Path, tmp_path: Path, sound: bytes
) -> None:
    write(path.with_name("backup"), sound)
    with serving(tmp_path) as server:
        async with httpx.AsyncClient(base_url=f"http://{server.host}:{server.port}") as client:
            await client.post("/heroes/", json=HERO)
        move(path, "predecessor")
        move(path.with_name("backup"), path.name)
        assert "stop it first" in await refusal(path)
        server.process.terminate()
        assert server.process.wait(60) == 0
    for file, count in ((path, HEROES), (path.with_name("predecessor"), 1)):
        async with running(create_app(settings_for(file))) as client:
            answer = await client.get("/heroes/?count=true")
        assert answer.headers["X-Total-Count"] == str(count)


async def test_a_lock_that_is_missing_from_one_look_at_a_long_list_is_no_reason_to_refuse(
    one_hero: httpx.AsyncClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    read = Path.read_text

    def read_in_pieces(file: Path, encoding: str) -> str:
        looks.append(read(file, encoding))
        of_file = f":{path.stat().st_ino} "
        lines = looks[-1].splitlines()
        return "\n".join(line for line in lines if len(looks) > 1 or of_file not in line)

    assert (await one_hero.get("/heroes/1")).status_code == 200
    monkeypatch.setattr(Path, "read_text", read_in_pieces)
    check_log(path)
    assert len(looks) > 1


# A link in the place of the file


@pytest.fixture
def link(path: Path, tmp_path: Path) -> Path:
    """Return a link to the file from another directory."""
    directory = tmp_path / "links"
    directory.mkdir()
    link = directory / "link.db"
    path.touch()
    link.symlink_to(path)
    return link


async def test_writes_are_refused_when_the_log_was_deleted_behind_a_link(
    link: Path, path: Path
) -> None:
    async with running(create_app(settings_for(link))) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        path.with_name("heroes.db-wal").unlink()
        await assert_writes_are_refused(client)


def test_the_log_that_a_crash_left_is_read_and_copied_through_a_link(
    link: Path, path: Path, tmp_path: Path
) -> None:
    with serving(tmp_path) as server:
        urlopen(created(server)).close()
        server.process.kill()
    assert run(link, "check").returncode == 0
    copied = run(path, "copy", f"sqlite:///{link}", f"sqlite:///{tmp_path}/copy.db")
    assert copied.stdout.startswith("1 hero copied")


def created(server: Server) -> Request:
    """Return a request that creates a hero."""
    address = f"http://{server.host}:{server.port}/heroes/"
    return Request(address, json.dumps(HERO).encode(), {"Content-Type": "application/json"})


async def test_a_service_that_waits_for_no_lock_starts(path: Path) -> None:
    async with running(create_app(settings_for(path, busy_timeout=0))) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200


# What SQLite and its users do to the file while the service runs


async def create(client: httpx.AsyncClient, count: int, **values: object) -> None:
    answers = await asyncio.gather(
        *(client.post("/heroes/", json=HERO | values) for _ in range(count))
    )
    assert {answer.status_code for answer in answers} == {200}


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


async def make(path: Path) -> None:
    async with running(create_app(settings_for(path))) as client:
        await create(client, 60)


@pytest.fixture
async def served(settings: Settings, path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a service with sixty heroes in its file, and one in its log."""
    await make(path)
    async with running(create_app(settings)) as client:
        await create(client, 1)
        yield client


def by_another_process(path: Path, *statements: str) -> None:
    """Run statements as a program does that uses the file beside the service, and ends."""
    program = (
        "import sqlite3, sys; other = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "[other.execute(statement).fetchall() for statement in sys.argv[2:]]"
    )
    subprocess.run([sys.executable, "-c", program, str(path), *statements], check=True, timeout=60)


LARGE = "INSERT INTO hero (name, secret_name) VALUES ('Other', hex(zeroblob(100000)))"
TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
USES: dict[str, Sequence[str]] = {
    "it writes and checkpoints": (*[LARGE] * 20, "PRAGMA wal_checkpoint(PASSIVE)"),
    "it writes so much that the log begins anew": [LARGE] * 60,
    "it empties the log": [TRUNCATE],
    "it writes and empties the log, twice": (LARGE, TRUNCATE, LARGE, TRUNCATE),
    "it checkpoints and lets the log begin anew": ["PRAGMA wal_checkpoint(RESTART)"],
    "it deletes and compacts": (LARGE, "DELETE FROM hero WHERE id > 10", "VACUUM", TRUNCATE),
    "it changes the schema": ("CREATE TABLE villain (id INTEGER)", "DROP TABLE villain", TRUNCATE),
    "it reads": ["SELECT * FROM hero"],
}


@pytest.mark.parametrize("statements", USES.values(), ids=USES.keys())
async def test_writes_go_on_when_another_process_uses_the_file(
    served: httpx.AsyncClient, path: Path, statements: Sequence[str]
) -> None:
    for _ in range(3):
        by_another_process(path, *statements)
        assert (await served.get("/readyz")).status_code == 200
        by_another_process(path, *statements)
        await create(served, 3)
    assert is_sound(path)


@pytest.mark.parametrize("statements", USES.values(), ids=USES.keys())
async def test_writes_go_on_when_another_process_uses_a_new_file(
    client: httpx.AsyncClient, path: Path, statements: Sequence[str]
) -> None:
    for _ in range(2):
        by_another_process(path, *statements)
        await create(client, 3)
    assert is_sound(path)


def touch(path: Path) -> None:
    path.touch()


def change_mode(path: Path) -> None:
    path.chmod(0o600)


def name_again(path: Path) -> None:
    path.with_name("link").hardlink_to(path)


def back_up(path: Path) -> None:
    shutil.copy(path, path.with_name("backup"))


def check(path: Path) -> None:
    assert run(path, "check").returncode == 0


@pytest.mark.parametrize("use", [touch, change_mode, name_again, back_up, check])
async def test_writes_go_on_when_a_tool_uses_the_file(
    served: httpx.AsyncClient, path: Path, use: Callable[[Path], None]
) -> None:
    use(path)
    await create(served, 3)
    assert (await served.get("/readyz")).status_code == 200


async def test_writes_go_on_while_the_service_checkpoints_by_itself(
    served: httpx.AsyncClient, path: Path
) -> None:
    before = read(path)
    await create_megabytes(served, 12)
    assert read(path) != before
    await create(served, 3)


@contextmanager
def checkpointing(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = (
        "import sqlite3, sys; other = sqlite3.connect(sys.argv[1], timeout=60)\n"
        "while True: other.execute('PRAGMA wal_checkpoint(PASSIVE)').fetchall()"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as other:
        try:
            yield other
        finally:
            other.kill()


async def test_writes_go_on_while_another_process_checkpoints_again_and_again(
    served: httpx.AsyncClient, path: Path
) -> None:
    with checkpointing(path) as other:
        for _ in range(20):
            await create(served, 50, secret_name="?" * 2_000)
        assert other.poll() is None


async def test_writes_go_on_when_two_services_overlap(
    served: httpx.AsyncClient, tmp_path: Path
) -> None:
    for _ in range(2):
        with serving(tmp_path) as server:
            async with httpx.AsyncClient(base_url=f"http://{server.host}:{server.port}") as other:
                for _ in range(5):
                    await asyncio.gather(
                        create(other, 50, secret_name="?" * 10_000),
                        create(served, 50, secret_name="?" * 10_000),
                    )
            server.process.terminate()
            assert server.process.wait(60) == 0
        await create(served, 3)


# Beside a reader that has the old pages, it changes the file until a page is at `sys.argv[2]`.
KILLED_IN_A_CHECKPOINT = """
import resource, signal, sqlite3, sys
other = sqlite3.connect(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
other.execute("PRAGMA wal_checkpoint(PASSIVE)")
"""


def look_at(reader: sqlite3.Connection) -> None:
    """Read, and stay in the transaction."""
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM hero").fetchone()


def kill_in_a_checkpoint(path: Path) -> None:
    size = path.stat().st_size
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_IN_A_CHECKPOINT, path, str(size)], check=False, timeout=60
    )
    assert ended.returncode == -signal.SIGXFSZ


async def test_writes_go_on_and_the_end_is_clean_when_others_were_killed_in_a_checkpoint(
    path: Path, tmp_path: Path
) -> None:
    await make(path)
    with serving(tmp_path) as server:
        address = f"http://{server.host}:{server.port}"
        async with httpx.AsyncClient(base_url=address) as client:
            for _ in range(3):
                by_another_process(path, *[LARGE] * 5, TRUNCATE)
                await create(client, 1)
                await create(client, 1)
                by_another_process(path, "DELETE FROM hero WHERE id > 3", "VACUUM")
                with closing(sqlite3.connect(path, isolation_level=None)) as reader:
                    look_at(reader)
                    by_another_process(path, "PRAGMA wal_checkpoint(PASSIVE)", *[LARGE] * 5)
                    reader.execute("COMMIT")
                    look_at(reader)
                    kill_in_a_checkpoint(path)
                    await create(client, 3)
                    assert (await client.get("/readyz")).status_code == 200
                await create(client, 3)
            page = await client.get("/heroes/?count=true")
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert {*state(tmp_path)} == {"heroes.db", "stderr"}
    assert is_sound(path)
    with closing(sqlite3.connect(path)) as connection:
        [count] = connection.execute("SELECT count(*) FROM hero").fetchone()
    assert page.headers["X-Total-Count"] == str(count)


# A file that cannot be used


@pytest.mark.parametrize("unit", [1, PAGE], ids=["anywhere", "between pages"])
async def test_a_file_that_was_truncated_is_refused_before_anything_is_written(
    path: Path, sound: bytes, seed: int, unit: int
) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        size = unit * chance.randrange(1, len(sound) // unit)
        write(path, sound[:size])
        await refusal(path)


async def test_a_file_that_was_truncated_by_its_last_byte_is_refused(
    path: Path, sound: bytes
) -> None:
    write(path, sound[:-1])
    assert "end" in await refusal(path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, sound: bytes) -> dict[str, bytes]:
    """Return what a service of a thousand heroes and one leaves when it is killed."""
    directory = tmp_path_factory.mktemp("killed")
    write(directory / "heroes.db", sound)
    with serving(directory) as server:
        url = f"http://{server.host}:{server.port}/heroes/"
        assert httpx.post(url, json=HERO).status_code == 200
        server.kill()
    left = {path.name: path.read_bytes() for path in directory.glob("heroes.db*")}
    assert left["heroes.db"] == sound
    assert len(left["heroes.db-wal"]) > 2 * PAGE
    return left


def leave(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        write(directory / name, content)


async def test_a_file_that_was_truncated_beside_a_log_is_refused_before_anything_is_written(
    path: Path, killed: dict[str, bytes], seed: int
) -> None:
    chance = random.Random(seed)
    # What is cut off is more than the log can hold.
    largest = len(killed["heroes.db"]) - len(killed["heroes.db-wal"])
    for size in [0, 1, 99, 100, *(chance.randrange(largest) for _ in range(100))]:
        leave(path.parent, killed | {"heroes.db": killed["heroes.db"][:size]})
        await refusal(path)


async def test_a_file_that_lacks_only_what_the_log_beside_it_holds_is_served(
    path: Path, killed: dict[str, bytes]
) -> None:
    # As when the end of the file was not written yet: the log has the page that the hero is on.
    leave(path.parent, killed | {"heroes.db": killed["heroes.db"][:-1]})
    async with running(create_app(settings_for(path))) as client:
        page = await client.get("/heroes/?count=true")
    assert page.headers["X-Total-Count"] == str(HEROES + 1)
    assert is_sound(path)


async def test_a_file_that_is_missing_beside_a_log_is_refused_and_not_made(
    path: Path, killed: dict[str, bytes]
) -> None:
    leave(path.parent, killed)
    delete(path)
    assert "heroes.db-wal" in await refusal(path)


OLDER = "UPDATE hero SET age = 99 WHERE id % 50 = 0"


@pytest.fixture
def overwritten(path: Path, sound: bytes) -> Path:
    """Leave a log as of a large commit whose sync failed, a smaller one over it, and a crash.

    What is left of the large one, which made the file grow, fits the log but for its checksums.
    """
    write(path, sound)
    lost = path.with_name("lost")
    lost.mkdir()
    logs = {}
    with closing(sqlite3.connect(path)) as one:
        one.execute("INSERT INTO hero (name, secret_name) VALUES ('Kept', '?')")
        one.commit()
        for name in ("heroes.db", "heroes.db-wal"):
            shutil.copy(path.with_name(name), lost / name)
        for directory, statement in ((lost, LARGE), (path.parent, OLDER)):
            with closing(sqlite3.connect(directory / "heroes.db")) as other:
                other.execute(statement)
                other.commit()
                logs[directory] = read(directory / "heroes.db-wal")
    large, small = logs[lost], logs[path.parent]
    assert large[:32] == small[:32]
    assert len(large) > len(small) + 20 * PAGE
    leave(path.parent, {"heroes.db": sound, "heroes.db-wal": small + large[len(small) :]})
    return path


async def test_a_log_with_remains_of_a_commit_that_was_lost_is_served_whole(
    overwritten: Path,
) -> None:
    async with running(create_app(settings_for(overwritten))) as client:
        answer = await client.get(f"/heroes/?after={HEROES}")
        assert [hero["name"] for hero in answer.json()] == ["Kept"]
        answer = await client.get("/heroes/?min_age=99&count=true")
        assert answer.headers["X-Total-Count"] == "20"
        await create(client, 3)
    assert is_sound(overwritten)


def test_a_log_with_remains_of_a_commit_that_was_lost_is_checked_and_copied_whole(
    overwritten: Path, tmp_path: Path
) -> None:
    assert run(overwritten, "check").returncode == 0
    ended = run(overwritten, "copy", f"sqlite:///{overwritten}", f"sqlite:///{tmp_path}/copy.db")
    assert ended.stdout.startswith(f"{HEROES + 1:,} heroes copied")


async def test_a_truncated_file_beside_a_log_without_a_commit_is_refused(
    path: Path, killed: dict[str, bytes]
) -> None:
    write(path, killed["heroes.db"][:-PAGE])
    write(path.with_name("heroes.db-wal"), killed["heroes.db-wal"][:32])
    await refusal(path)


async def test_a_first_start_that_was_killed_anywhere_is_begun_again(
    tmp_path: Path, settings: Settings
) -> None:
    async with running(create_app(settings)):
        left = state(tmp_path)
    # The file is a page with no table; all of the rest is in the log.
    assert len(left["heroes.db"]) == PAGE
    log = left["heroes.db-wal"]
    again = tmp_path / "again"
    again.mkdir()
    frames = range(32, len(log), 24 + PAGE)
    for size in [0, 31, *(frame + more for frame in frames for more in (0, 24, PAGE)), len(log)]:
        leave(again, {"heroes.db": left["heroes.db"], "heroes.db-wal": log[:size]})
        async with running(create_app(settings_for(again / "heroes.db"))) as client:
            assert (await client.post("/heroes/", json=HERO)).status_code == 200


async def test_a_file_that_a_crash_left_shorter_than_its_header_says_is_rolled_back(
    tmp_path: Path, sound: bytes
) -> None:
    # As when the tutorial's program is killed while it commits: page 1 is written first.
    served, crashed = tmp_path / "heroes.db", tmp_path / "crashed"
    crashed.mkdir()
    write(served, sound)
    with closing(sqlite3.connect(served, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("PRAGMA cache_size=1")
        other.execute("BEGIN IMMEDIATE")
        other.execute("PRAGMA user_version=1")  # is on page 1, which the journal then has
        for _ in range(1_000):
            other.execute("INSERT INTO hero (name, secret_name) VALUES (?, ?)", ("a", "b" * 100))
        left = state(tmp_path)
    pages = len(left["heroes.db"]) // PAGE + 1
    write(crashed / "heroes.db", patched(left["heroes.db"], 28, pages.to_bytes(4, "big")))
    write(crashed / "heroes.db-journal", left["heroes.db-journal"])
    async with running(create_app(settings_for(crashed / "heroes.db"))) as client:
        page = await client.get("/heroes/?count=true")
    assert page.headers["X-Total-Count"] == str(HEROES)


def test_a_pipe_in_the_place_of_the_file_is_refused_in_one_line(path: Path) -> None:
    os.mkfifo(path)
    assert_does_not_start(path)


def patched(content: bytes, start: int, new: bytes) -> bytes:
    return content[:start] + new + content[start + len(new) :]


WRONG_HEADERS = {
    "no magic": (0, b"MySQL format 3\0\0"),
    "a page size of 3": (16, b"\0\3"),
    "a page size that is not the file's": (16, b"\2\0"),
    "an unknown read version": (19, b"\3"),
    "payload fractions of nothing": (21, b"\0\0\0"),
    "an unknown schema format": (44, b"\0\0\0\7"),
    "an unknown encoding": (56, b"\0\0\0\7"),
}


@pytest.mark.parametrize(("start", "new"), WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
async def test_a_file_with_a_wrong_header_is_refused_before_anything_is_written(
    path: Path, sound: bytes, start: int, new: bytes
) -> None:
    write(path, patched(sound, start, new))
    await refusal(path)


async def test_a_file_whose_schema_is_damaged_is_refused(path: Path, sound: bytes) -> None:
    write(path, patched(sound, 100, b"\xff" * (PAGE - 100)))
    await refusal(path)


OTHER_SCHEMAS = {
    "other columns": "CREATE TABLE hero (id INTEGER PRIMARY KEY, cape TEXT)",
    "a column is missing": "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)",
    "a view": "CREATE VIEW hero AS SELECT 1 id, 'a' name, 2 age, 'b' secret_name",
    "ids that are not the key": "CREATE TABLE hero (id INTEGER, name TEXT, age INTEGER, "
    "secret_name TEXT)",
    "ids that are text": "CREATE TABLE hero (id TEXT PRIMARY KEY, name TEXT, age INTEGER, "
    "secret_name TEXT)",
    "ids that are BIGINT": "CREATE TABLE hero (id BIGINT PRIMARY KEY, name TEXT, age INTEGER, "
    "secret_name TEXT)",
    "ids that are INT": "CREATE TABLE hero (id INT NOT NULL, name TEXT, age INTEGER, "
    "secret_name TEXT, PRIMARY KEY (id))",
    "ids that descend": "CREATE TABLE hero (id INTEGER PRIMARY KEY DESC, name TEXT, age INTEGER, "
    "secret_name TEXT)",
    "no rowids": "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, "
    "secret_name TEXT) WITHOUT ROWID",
    "ids that are half of the key": "CREATE TABLE hero (id INTEGER, name TEXT, age INTEGER, "
    "secret_name TEXT, PRIMARY KEY (id, name))",
    "a name in another case": "CREATE TABLE Hero (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, "
    "secret_name TEXT)",
    "another column that must be given": "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, "
    "age INTEGER, secret_name TEXT, cape TEXT NOT NULL)",
}


@pytest.mark.parametrize("schema", OTHER_SCHEMAS.values(), ids=OTHER_SCHEMAS.keys())
async def test_another_schema_is_refused_before_anything_is_written(
    path: Path, schema: str
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(schema)
    assert "hero" in await refusal(path)


async def test_other_tables_and_columns_beside_the_heroes_are_no_reason_to_refuse(
    path: Path,
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE villain (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE hero (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, secret_name TEXT, "
            "cape TEXT, born TEXT NOT NULL DEFAULT 'now')"
        )
    async with running(create_app(settings_for(path))) as client:
        assert (await client.post("/heroes/", json=HERO)).status_code == 200


def make_table(path: Path, columns: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE hero ({columns})")


@pytest.mark.parametrize(
    "key",
    [
        "id integer PRIMARY KEY",
        "id INTEGER PRIMARY KEY ASC",
        "id INTEGER PRIMARY KEY AUTOINCREMENT",
    ],
)
async def test_a_table_whose_ids_are_its_rowids_is_served_without_a_warning(
    path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_table(path, f"{key}, name VARCHAR(50) NOT NULL, age NUMERIC, secret_name CLOB")
    async with running(create_app(settings_for(path))) as client:
        await create(client, 1)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("columns", "warned"),
    [
        ("name STRING, age INTEGER, secret_name TEXT", "name of the table hero is STRING"),
        ("name TEXT, age TEXT, secret_name TEXT", "age of the table hero is TEXT"),
        ("name TEXT, age REAL, secret_name TEXT", "age of the table hero is REAL"),
        ("name TEXT, age INT NOT NULL, secret_name TEXT", "age of the table hero is INT NOT NULL"),
        ("name TEXT, age INTEGER, secret_name INT", "secret_name of the table hero is INT"),
    ],
)
async def test_a_column_that_changes_what_is_stored_in_it_is_a_warning_that_names_it(
    path: Path, columns: str, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_table(path, f"id INTEGER PRIMARY KEY, {columns}")
    async with open_database(settings_for(path), {}, [heroes.table]):
        [message] = caplog.messages
        assert warned in message


async def test_a_missing_directory_is_refused_and_not_made(tmp_path: Path) -> None:
    assert "directory" in await refusal_of_missing(tmp_path / "missing" / "heroes.db")
    assert state(tmp_path) == {}


async def refusal_of_missing(path: Path) -> str:
    with pytest.raises(StartError) as caught:
        async with open_database(settings_for(path), {}, [heroes.table]):
            pytest.fail("it was opened")
    return str(caught.value)


async def test_a_file_that_another_process_keeps_locked_is_refused_in_time(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE villain (id INTEGER PRIMARY KEY)")
        other.execute("BEGIN EXCLUSIVE")
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(StartError, match="locked"):
                async with open_database(settings_for(path, busy_timeout=0.1), {}, [heroes.table]):
                    pytest.fail("it was opened")


# The same, through the command


def run(
    path: Path, *arguments: str, program: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return command.run(*arguments, database_url=f"sqlite:///{path}", program=program)


def assert_does_not_start(path: Path, *, program: Sequence[str] = ()) -> str:
    """`hero-api serve` ends with one line, a status that is not 0 and nothing touched."""
    before = kept(path.parent)
    ended = run(path, "serve", "--port", "0", program=program)
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("hero-api: ")
    assert str(path) in line
    assert kept(path.parent) == before
    return line


def test_the_command_refuses_a_truncated_file_in_one_line(path: Path, sound: bytes) -> None:
    path.write_bytes(sound[:-PAGE])
    assert_does_not_start(path)


def test_the_check_does_not_touch_a_log_beside_an_empty_file(
    path: Path, killed: dict[str, bytes]
) -> None:
    leave(path.parent, killed | {"heroes.db": b""})
    before = state(path.parent)
    ended = run(path, "check")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert state(path.parent) == before


def test_a_read_only_file_is_refused_in_one_line(public: Path, sound: bytes) -> None:
    path = public / "heroes.db"
    path.write_bytes(sound)
    path.chmod(0o444)
    public.chmod(0o777)
    assert_does_not_start(path, program=("-c", UNPRIVILEGED))


def test_a_file_in_a_read_only_directory_is_refused_in_one_line(public: Path, sound: bytes) -> None:
    path = public / "heroes.db"
    path.write_bytes(sound)
    path.chmod(0o666)
    public.chmod(0o555)
    assert_does_not_start(path, program=("-c", UNPRIVILEGED))


def test_a_new_file_in_a_read_only_directory_is_refused_in_one_line(public: Path) -> None:
    public.chmod(0o555)
    assert_does_not_start(public / "heroes.db", program=("-c", UNPRIVILEGED))


def test_a_file_in_a_directory_that_cannot_be_entered_is_refused_in_one_line(
    public: Path,
) -> None:
    (public / "closed").mkdir(mode=0o700)
    if os.getuid() != 0:
        (public / "closed").chmod(0)
    assert_does_not_start(public / "closed" / "heroes.db", program=("-c", UNPRIVILEGED))


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_file_beside_that_someone_else_has_left_is_refused_in_one_line_with_its_owner(
    public: Path, sound: bytes, suffix: str
) -> None:
    path, left = public / "heroes.db", public / f"heroes.db{suffix}"
    path.write_bytes(sound)
    left.touch()
    path.chmod(0o666)
    left.chmod(0o444)
    public.chmod(0o777)
    line = assert_does_not_start(path, program=("-c", UNPRIVILEGED))
    assert str(left) in line
    assert left.owner() in line


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_file_beside_that_its_own_user_may_not_write_is_refused_with_the_true_reason(
    public: Path, sound: bytes, suffix: str
) -> None:
    path, left = public / "heroes.db", public / f"heroes.db{suffix}"
    path.write_bytes(sound)
    left.touch()
    path.chmod(0o666)
    if os.getuid() == 0:
        os.chown(left, 65534, 65534)
    left.chmod(0o444)
    public.chmod(0o777)
    line = assert_does_not_start(path, program=("-c", UNPRIVILEGED))
    assert "chmod" in line
    assert "chown" not in line


def test_a_loop_of_links_is_refused_in_one_line(path: Path) -> None:
    path.symlink_to(path)
    assert "symbolic links" in assert_does_not_start(path)


def test_a_start_is_refused_in_one_line_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    directory = tmp_path / "two\nlines"
    ended = run(directory / "heroes.db", "serve", "--port", "0")
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert "two lines" in line


def test_the_announcement_names_the_file_in_one_line(tmp_path: Path) -> None:
    directory = tmp_path / "two\nlines"
    directory.mkdir()
    url = f"sqlite:///{directory}/heroes.db"
    with serving(directory, database_url=url) as server:
        server.process.terminate()
        assert server.process.stdout is not None
        where, durability = server.process.stdout
        assert "two lines/heroes.db" in where
        assert durability.startswith("Durability")


NO_THREADS = """
import threading
import hero_api.server
from hero_api.cli import main
def start(_):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
main()
"""


def test_a_start_without_a_thread_is_refused_in_one_line(path: Path, sound: bytes) -> None:
    write(path, sound)
    assert "thread" in assert_does_not_start(path, program=("-c", NO_THREADS))


# A file that is a mount of its own


MOUNTS = b"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
41 22 254:0 /srv/heroes.db %s rw,relatime shared:1 - ext4 /dev/vda rw
"""


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("heroes.db", "heroes.db"),
        ("all heroes.db", r"all\040heroes.db"),
        ("a\tb\nc.db", r"a\011b\012c.db"),
        (r"a\040.db", r"a\134040.db"),
        ("#1 Zoë.db", r"\0431\040Zoë.db"),
    ],
)
def test_a_file_is_found_among_the_mounts_by_its_name(
    tmp_path: Path, name: str, escaped: str
) -> None:
    mounts, path, other = tmp_path / "mounts", tmp_path / name, tmp_path / "other.db"
    write(mounts, MOUNTS % os.fsencode(tmp_path / escaped))
    assert is_mounted(path, mounts)
    assert not is_mounted(other, mounts)
    other.symlink_to(path)
    assert is_mounted(other, mounts)


def test_no_file_is_a_mount_where_the_system_lists_none(path: Path, tmp_path: Path) -> None:
    assert not is_mounted(path, tmp_path / "missing")


def test_the_directory_of_the_file_may_be_a_mount(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "mounts", MOUNTS % os.fsencode(tmp_path))
    assert not is_mounted(path, tmp_path / "mounts")


@pytest.fixture
def mounted(path: Path, tmp_path: Path, sound: bytes) -> Iterator[Path]:
    """Mount a file over the database's, as a container does it."""
    write(tmp_path / "outside.db", sound)
    path.touch()
    mount = ["mount", "--bind", str(tmp_path / "outside.db"), str(path)]
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount")
    ended = subprocess.run(mount, check=False, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip(f"nothing can be mounted here: {ended.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_single_file_that_is_mounted_is_refused_in_one_line(mounted: Path) -> None:
    assert "mount its directory" in assert_does_not_start(mounted)


# Damage inside the file


def leaves(path: Path) -> list[int]:
    """Return the numbers of the pages that hold the heroes (https://sqlite.org/fileformat.html)."""
    with closing(sqlite3.connect(path)) as connection:
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'hero'")
    content = path.read_bytes()
    page = content[PAGE * (root - 1) : PAGE * root]
    assert page[0] == 5  # an interior page: its cells point at the leaves
    cells = [
        int.from_bytes(page[place : place + 2], "big")
        for place in range(12, 12 + 2 * int.from_bytes(page[3:5], "big"), 2)
    ]
    return [int.from_bytes(page[cell : cell + 4], "big") for cell in cells]


def unreadable(path: Path) -> set[int]:
    """Return the ids of the heroes that SQLite itself cannot read."""
    damaged = set()
    with closing(sqlite3.connect(path)) as connection:
        for hero_id in range(1, HEROES + 1):
            try:
                connection.execute("SELECT * FROM hero WHERE id = ?", [hero_id]).fetchone()
            except sqlite3.DatabaseError:
                damaged.add(hero_id)
    return damaged


@pytest.fixture(params=[b"\xff", b"\0", b"garbage."], ids=["ones", "zeros", "garbage"])
def damaged(path: Path, sound: bytes, request: pytest.FixtureRequest) -> set[int]:
    """Damage a page of heroes; return the ids of those that were on it."""
    path.write_bytes(sound)
    page = leaves(path)[5]
    content = (request.param * PAGE)[:PAGE]
    path.write_bytes(patched(sound, PAGE * (page - 1), content))
    damaged = unreadable(path)
    assert 0 < len(damaged) < HEROES // 4
    return damaged


async def test_a_hero_on_a_damaged_page_is_answered_503_and_what_to_do(
    damaged: set[int], client: httpx.AsyncClient
) -> None:
    for hero_id in damaged:
        answer = await client.get(f"/heroes/{hero_id}")
        assert answer.status_code == 503
        assert "hero-api check" in answer.json()["detail"]


async def test_heroes_on_other_pages_are_served_beside_a_damaged_one(
    damaged: set[int], client: httpx.AsyncClient
) -> None:
    answers = await asyncio.gather(
        *(client.get(f"/heroes/{hero_id}") for hero_id in range(1, HEROES + 1))
    )
    refused = {
        hero_id for hero_id, answer in enumerate(answers, start=1) if answer.status_code != 200
    }
    assert refused == damaged


async def test_a_page_is_answered_503_and_what_to_do_only_across_a_damaged_page(
    damaged: set[int], client: httpx.AsyncClient
) -> None:
    whole, broken = await asyncio.gather(
        client.get(f"/heroes/?after={max(damaged) + 1}"),
        client.get(f"/heroes/?after={min(damaged) - 2}"),
    )
    assert (whole.status_code, len(whole.json())) == (200, 100)
    assert broken.status_code == 503
    assert "hero-api check" in broken.json()["detail"]


async def test_heroes_are_created_and_changed_beside_a_damaged_page(
    damaged: set[int], client: httpx.AsyncClient
) -> None:
    created, changed, refused = await asyncio.gather(
        client.post("/heroes/", json=HERO),
        client.patch(f"/heroes/{max(damaged) + 1}", json={"secret_name": "!"}),
        client.patch(f"/heroes/{max(damaged)}", json={"secret_name": "!"}),
    )
    statuses = (created.status_code, changed.status_code, refused.status_code)
    assert statuses == (200, 200, 503)


async def test_the_service_is_ready_beside_a_damaged_page(
    damaged: set[int], client: httpx.AsyncClient
) -> None:
    assert damaged
    assert (await client.get("/readyz")).status_code == 200


def test_the_check_finds_a_damaged_page(damaged: set[int], path: Path) -> None:
    assert damaged
    before = path.read_bytes()
    ended = run(path, "check")
    assert ended.returncode == 1
    assert ended.stdout.strip()
    [line] = ended.stderr.splitlines()
    assert line.startswith("hero-api: ")
    assert path.read_bytes() == before


async def test_damage_anywhere_is_a_refusal_or_an_answer_that_says_so(
    path: Path, sound: bytes, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        place = chance.randrange(100, len(sound) - 64)
        write(path, patched(sound, place, chance.randbytes(64)))
        try:
            async with running(create_app(settings_for(path, busy_timeout=0.1))) as client:
                for hero_id in range(1, HEROES, 37):
                    assert_is_clear(await client.get(f"/heroes/{hero_id}"))
                assert_is_clear(await client.get("/heroes/"))
                assert_is_clear(await client.get("/heroes/?name=Hero+7&count=true"))
                assert_is_clear(await client.post("/heroes/", json=HERO))
                assert_is_clear(await client.delete("/heroes/500"))
        except StartError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017 - it may or may not start
    assert "Traceback" not in caplog.text


def assert_is_clear(answer: httpx.Response) -> None:
    assert answer.status_code in {200, 404, 500, 503}
    assert "Internal Server Error" not in answer.text


# A row that cannot be read


@pytest.fixture
async def undecodable(client: httpx.AsyncClient, path: Path) -> httpx.AsyncClient:
    """Return a client of a service whose hero 1 has a name that is not UTF-8, and was asked for."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO hero (name, secret_name) VALUES (CAST(x'ff' AS TEXT), '?')")
        other.commit()
    assert (await client.get("/heroes/1")).status_code == 500
    assert (await client.get("/heroes/")).status_code == 500
    return client


async def test_what_is_created_after_a_row_that_cannot_be_read_is_read(
    undecodable: httpx.AsyncClient,
) -> None:
    created = (await undecodable.post("/heroes/", json=HERO)).json()
    assert (await undecodable.get("/heroes/2")).json() == created
    assert (await undecodable.get("/heroes/?after=1")).json() == [created]


async def test_a_row_that_cannot_be_read_keeps_no_transaction_open(
    undecodable: httpx.AsyncClient, path: Path
) -> None:
    await undecodable.post("/heroes/", json=HERO)
    with closing(sqlite3.connect(path)) as other:
        busy, _, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy


async def test_what_a_row_that_cannot_be_read_holds_is_not_logged(
    client: httpx.AsyncClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("INSERT INTO hero (name, secret_name) VALUES (CAST(x'ff' AS TEXT), 'Dive')")
        other.commit()
    await client.get("/heroes/1")
    assert "Dive" not in caplog.text


# A reader of another process that stays


async def create_megabytes(client: httpx.AsyncClient, count: int) -> None:
    hero = {"name": "Deadpond", "secret_name": "?" * 10_000}
    for _ in range(count):
        answers = await asyncio.gather(*(client.post("/heroes/", json=hero) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}


async def test_the_write_ahead_log_is_used_again_after_a_reader_that_stayed(
    client: httpx.AsyncClient, path: Path
) -> None:
    wal = path.with_name("heroes.db-wal")
    await client.post("/heroes/", json=HERO)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM hero").fetchone()
        await create_megabytes(client, 8)
    grown = wal.stat().st_size
    assert grown > 8_000_000
    await create_megabytes(client, 8)
    assert wal.stat().st_size < grown + 2_000_000


async def test_the_write_ahead_log_shrinks_to_64_mib_after_a_reader_that_stayed(
    client: httpx.AsyncClient, path: Path
) -> None:
    wal = path.with_name("heroes.db-wal")
    await client.post("/heroes/", json=HERO)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM hero").fetchone()
        with closing(sqlite3.connect(path)) as other:
            secrets = [(f"Hero {number}", "s" * 1_000_000) for number in range(80)]
            other.executemany("INSERT INTO hero (name, secret_name) VALUES (?, ?)", secrets)
            other.commit()
    assert wal.stat().st_size > 80_000_000
    # One that checkpoints, and one that begins the log anew.
    await create_megabytes(client, 1)
    await client.post("/heroes/", json=HERO)
    assert wal.stat().st_size <= 64 * 1024 * 1024


async def test_the_write_ahead_log_stays_small_without_such_a_reader(
    client: httpx.AsyncClient, path: Path
) -> None:
    await create_megabytes(client, 12)
    assert path.with_name("heroes.db-wal").stat().st_size < 8_000_000


async def test_a_reader_that_stays_keeps_its_snapshot_and_hinders_no_write(
    client: httpx.AsyncClient, path: Path
) -> None:
    await client.post("/heroes/", json=HERO)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM hero").fetchone() == (1,)
        # One that had to wait would be refused.
        assert (await client.post("/heroes/", json=HERO)).status_code == 200
        assert reader.execute("SELECT count(*) FROM hero").fetchone() == (1,)


async def test_a_clean_stop_beside_a_reader_that_stays_loses_nothing(
    app: FastAPI, path: Path
) -> None:
    async with running(app) as client:
        await client.post("/heroes/", json=HERO)
        reader = sqlite3.connect(path, isolation_level=None)
        with closing(reader):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM hero").fetchone()
            await client.post("/heroes/", json=HERO)
    async with running(app) as client:
        assert len((await client.get("/heroes/")).json()) == 2


async def test_a_file_with_a_write_ahead_log_that_a_crash_left_opens_with_all_of_it(
    tmp_path: Path, path: Path
) -> None:
    async with running(create_app(settings_for(path))) as client:
        await client.post("/heroes/", json=HERO)
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in ("heroes.db", "heroes.db-wal"):
            shutil.copy(tmp_path / name, crashed / name)
    async with running(create_app(settings_for(crashed / "heroes.db"))) as client:
        assert (await client.get("/heroes/1")).json()["name"] == "Deadpond"


def test_a_stop_leaves_the_log_that_another_process_has_begun_in_the_place_of_a_deleted_one(
    tmp_path: Path,
) -> None:
    rows = [("x" * 400, "y" * 9_000)] * 50
    with serving(tmp_path) as server:
        for number in range(20):
            hero = json.dumps({"name": f"Hero {number}", "secret_name": "z" * 9_000})
            answer = Request(
                f"http://{server.host}:{server.port}/heroes/",
                hero.encode(),
                {"Content-Type": "application/json"},
            )
            with urlopen(answer) as response:
                assert response.status == 200
            if number == 9:
                with closing(sqlite3.connect(server.file, isolation_level=None)) as other:
                    other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        with closing(sqlite3.connect(server.file, isolation_level=None)) as other:
            for suffix in ("-wal", "-shm"):
                delete(server.file.with_name(server.file.name + suffix))
        with closing(sqlite3.connect(server.file, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.executemany("INSERT INTO hero (name, secret_name) VALUES (?, ?)", rows)
            other.execute("COMMIT")
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
            server.process.terminate()
            assert server.process.wait(60) == 0
            assert [*other.execute("PRAGMA integrity_check")] == [("ok",)]
            [(count,)] = other.execute("SELECT count(*) FROM hero WHERE name = ?", rows[0][:1])
            assert count == len(rows)
    assert "another WAL" in server.log.read_text()
