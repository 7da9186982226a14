"""`hero-api backup` and `hero-api restore`, of SQLite files."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest
from sqlalchemy import Table

from hero_api.app import create_app
from hero_api.cli import main
from hero_api.commands.backup import backup, restore
from hero_api.commands.copy import copy
from hero_api.commands.new_file import new_file
from hero_api.commands.progress import Progress
from hero_api.commands.seed import seed
from hero_api.commands.upgrade import upgrade
from hero_api.database.sqlite import engine
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import connection_to
from tests.servers import UNPRIVILEGED
from tests.test_cli import Stopped, make, room_for, run

pytestmark = pytest.mark.sqlite

HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}
OLD = "CREATE TABLE hero (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR, secret_name VARCHAR)"


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite be one that two processes may write with."""
    monkeypatch.setattr(engine, "has_wal_reset_fault", lambda: False)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite be one that can corrupt a file that two processes write."""
    monkeypatch.setattr(engine, "has_wal_reset_fault", lambda: True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a backup goes."""
    return tmp_path / "backups" / "heroes.db"


@pytest.fixture(autouse=True)
def _directory(file: Path) -> None:
    file.parent.mkdir()


async def create(client: httpx.AsyncClient, **fields: object) -> int:
    answer = await client.post("/heroes/", json=HERO | fields)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


async def ids(client: httpx.AsyncClient) -> list[int]:
    return [hero["id"] for hero in (await client.get("/heroes/")).json()]


def in_file(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


async def put(settings: Settings, file: Path, table: Table = heroes.table) -> None:
    await asyncio.to_thread(restore, settings, file, table)


@pytest.fixture
async def filled(settings: Settings) -> Settings:
    """Settings of a database with three heroes, which nobody has open."""
    async with running(create_app(settings)) as client:
        for _ in range(3):
            await create(client)
    return settings


# The backup


async def test_a_backup_of_a_running_service_has_every_hero_and_stands_alone(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    created = [await create(client) for _ in range(3)]
    await asyncio.to_thread(backup, settings, file)
    assert in_file(file, "SELECT id FROM hero") == [(hero_id,) for hero_id in created]
    assert await create(client) == created[-1] + 1


def test_a_backup_leaves_nothing_beside_a_file_that_nobody_uses(
    filled: Settings, file: Path
) -> None:
    before = filled.path.read_bytes()
    assert backup(filled, file) == file.stat().st_size
    assert filled.path.read_bytes() == before
    assert sorted(filled.path.parent.iterdir()) == [file.parent, filled.path]
    assert list(file.parent.iterdir()) == [file]


def test_what_only_reads_leaves_nothing_beside_an_empty_journal_either(filled: Settings) -> None:
    Path(f"{filled.path}-journal").touch()
    before = sorted(filled.path.parent.iterdir())
    assert run("check", path=filled.path).returncode == 0
    assert sorted(filled.path.parent.iterdir()) == before


def test_a_file_that_is_there_is_no_backup_and_stays(filled: Settings, file: Path) -> None:
    file.write_text("precious", encoding="ascii")
    with pytest.raises(StartError, match=r"is there already"):
        backup(filled, file)
    assert file.read_text(encoding="ascii") == "precious"


def test_a_damaged_database_gives_no_backup(filled: Settings, file: Path) -> None:
    in_file(filled.path, "INSERT INTO hero (name, secret_name) SELECT 'n', 's'")
    content = bytearray(filled.path.read_bytes())
    content[4096 + 100 : 3 * 4096] = b"\xff" * (2 * 4096 - 100)
    filled.path.write_bytes(content)
    with pytest.raises(StartError, match=r"heroes\.db(:| is damaged)"):
        backup(filled, file)
    assert list(file.parent.iterdir()) == []


def damage(path: Path) -> None:
    """Let a row break a rule of its table: SQLite copies that, and finds it when it checks."""
    in_file(path, "CREATE TABLE other (name VARCHAR)")
    in_file(path, "INSERT INTO other VALUES (NULL)")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'R)', 'R NOT NULL)')")


def test_a_copy_is_checked_before_it_gets_its_name(filled: Settings, file: Path) -> None:
    damage(filled.path)
    with pytest.raises(StartError, match=r"heroes\.db is damaged: NULL value in other\.name"):
        backup(filled, file)
    assert list(file.parent.iterdir()) == []


def test_a_copy_is_checked_before_it_is_restored(filled: Settings, file: Path) -> None:
    backup(filled, file)
    damage(file)
    before = filled.path.read_bytes()
    with pytest.raises(StartError, match=rf"\A{file} is damaged: NULL value in other\.name"):
        restore(filled, file, heroes.table)
    assert filled.path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_backup_gets_no_name_beside_which_another_file_has_left_its_log(
    filled: Settings, file: Path, suffix: str
) -> None:
    left = Path(f"{file}{suffix}")
    left.write_bytes(b"theirs")
    with pytest.raises(StartError, match=rf"it is missing, but not {left}; restore"):
        backup(filled, file)
    assert [*file.parent.iterdir()] == [left]


@pytest.mark.parametrize("command", ["backup", "import", "seed", "upgrade", "restore"])
def test_the_log_of_a_file_that_lacks_its_end_is_left_alone(
    filled: Settings, file: Path, command: str
) -> None:
    backup(filled, file)
    lines = file.with_name("heroes.jsonl")
    lines.write_bytes(b"")
    arguments = {"import": [str(lines)], "seed": ["1"], "upgrade": [], "restore": [str(file)]}
    log = Path(f"{filled.path}-wal")
    with connection_to(filled) as other:
        other.execute("UPDATE hero SET age = 1")
        content, length = log.read_bytes(), filled.path.stat().st_size
    log.write_bytes(content)
    before = filled.path.read_bytes()[: length // 2]
    filled.path.write_bytes(before)
    ended = run(command, *arguments.get(command, [str(file.with_name("b"))]), path=filled.path)
    assert "the file lacks its end; move it away, and restore a backup" in ended.stderr
    assert (filled.path.read_bytes(), log.read_bytes()) == (before, content)


def test_what_cannot_be_written_is_one_line(filled: Settings, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"\A.*nowhere.*No such file.*\Z"):
        backup(filled, tmp_path / "nowhere" / "heroes.db")


def test_a_backup_that_finds_no_room_is_said_not_to_be_written(
    filled: Settings, file: Path
) -> None:
    match = r"\AA copy of .*heroes\.db cannot be written"
    with room_for(4_096), pytest.raises(StartError, match=match):
        backup(filled, file)
    assert list(file.parent.iterdir()) == []


def test_a_name_that_is_too_long_is_said_of_the_backup(filled: Settings, file: Path) -> None:
    with pytest.raises(StartError, match=r"\A.*backups/xx.*: File name too long\Z"):
        backup(filled, file.with_name("x" * 300))


def test_a_backup_that_is_stopped_is_not_there(
    monkeypatch: pytest.MonkeyPatch, filled: Settings, file: Path
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Stopped))
    ended = run("backup", str(file), path=filled.path)
    assert ended.stderr == f"hero-api: Stopped; there is no {file}\n"
    assert list(file.parent.iterdir()) == []


def stop_after(monkeypatch: pytest.MonkeyPatch, of: object, name: str) -> None:
    """Let Ctrl-C come right behind the next call of a function."""
    call = getattr(of, name)

    def call_and_stop(*arguments: Any, **options: Any) -> None:  # noqa: ANN401
        call(*arguments, **options)
        monkeypatch.setattr(of, name, call)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(of, name, call_and_stop)


@pytest.mark.parametrize(("of", "name"), [(os, "link"), (os, "rmdir")])
def test_a_backup_that_is_stopped_when_it_has_its_name_is_not_there_either(
    monkeypatch: pytest.MonkeyPatch, filled: Settings, file: Path, of: object, name: str
) -> None:
    stop_after(monkeypatch, of, name)
    ended = run("backup", str(file), path=filled.path)
    assert ended.stderr == f"hero-api: Stopped; there is no {file}\n"
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
def test_a_copy_that_is_stopped_while_it_is_cleared_away_is_cleared_away(
    monkeypatch: pytest.MonkeyPatch, filled: Settings, file: Path, name: str
) -> None:
    backup(filled, file)
    stop_after(monkeypatch, os, name)
    ended = run("restore", str(file), path=filled.path)
    assert ended.stderr.endswith(f"{filled.path} has what it had, or all that {file} has\n")
    assert sorted(filled.path.parent.iterdir()) == [file.parent, filled.path]


def test_a_file_that_somebody_makes_meanwhile_is_not_replaced(file: Path) -> None:
    with pytest.raises(StartError, match=r"is there already"), new_file(file):
        file.write_bytes(b"theirs")
    assert file.read_bytes() == b"theirs"
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_somebody_makes_at_the_last_moment_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    stat = Path.stat

    def make_and_look(path: Path, **options: bool) -> os.stat_result:
        file.write_bytes(b"theirs")
        return stat(path, **options)

    with pytest.raises(StartError, match=r"is there already"), new_file(file):
        monkeypatch.setattr(Path, "stat", make_and_look)
    assert file.read_bytes() == b"theirs"


def test_a_disk_without_links_can_hold_a_backup(
    monkeypatch: pytest.MonkeyPatch, filled: Settings, file: Path
) -> None:
    monkeypatch.setattr(os, "link", mock.Mock(side_effect=PermissionError))
    backup(filled, file)
    assert in_file(file, "SELECT count(*) FROM hero") == [(3,)]


def test_a_backup_that_is_terminated_leaves_nothing_behind(filled: Settings, file: Path) -> None:
    program = """
import functools, signal, sqlite3
from hero_api.__main__ import main

class Stopped(sqlite3.Connection):
    def set_progress_handler(self, *_):
        super().set_progress_handler(functools.partial(signal.raise_signal, signal.SIGTERM), 1)

sqlite3.connect = functools.partial(sqlite3.connect, factory=Stopped)
main()
"""
    ended = run("backup", str(file), path=filled.path, program=("-c", program))
    assert ended.stderr == f"hero-api: Stopped; there is no {file}\n"
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("closed", [".", "heroes.db"], ids=["its disk", "the file"])
def test_what_can_only_be_read_is_backed_up(filled: Settings, public: Path, closed: str) -> None:
    directory = public / "only to be read"
    directory.mkdir()
    path = Path(shutil.copy(filled.path, directory))
    for each in (public, directory):
        each.chmod(0o777)
    (directory / closed).chmod(0o555)
    program = f"import hero_api.commands.backup\n{UNPRIVILEGED}"
    ended = run("backup", str(public / "b.db"), path=path, program=("-c", program))
    directory.chmod(0o755)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [*directory.iterdir()] == [path], "what is beside it would be this user's"
    assert in_file(public / "b.db", "SELECT count(*) FROM hero") == [(3,)]


def test_no_database_gives_no_backup(settings: Settings, file: Path) -> None:
    with pytest.raises(StartError, match=r"\AThere is no database"):
        backup(settings, file)
    assert not settings.path.exists()


# The restore


@pytest.mark.usefixtures("unguarded")
async def test_a_restore_below_a_running_service_is_what_it_serves_and_gives_no_id_again(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    kept = [await create(client) for _ in range(3)]
    await asyncio.to_thread(backup, settings, file)
    await client.patch(f"/heroes/{kept[0]}", json={"name": "another"})
    await client.delete(f"/heroes/{kept[1]}")
    gone = [await create(client) for _ in range(3)]
    await put(settings, file)
    assert await ids(client) == kept
    assert (await client.get(f"/heroes/{kept[0]}")).json()["name"] == HERO["name"]
    assert (await client.get(f"/heroes/{gone[-1]}")).status_code == 404
    assert await create(client) == gone[-1] + 1
    assert (await client.get("/readyz")).status_code == 200


async def test_a_file_of_a_stopped_service_is_restored(filled: Settings, file: Path) -> None:
    await asyncio.to_thread(backup, filled, file)
    async with running(create_app(filled)) as client:
        await client.delete("/heroes/3")
        await create(client)
    await put(filled, file)
    assert sorted(filled.path.parent.iterdir()) == [file.parent, filled.path]
    async with running(create_app(filled)) as client:
        assert await ids(client) == [1, 2, 3]
        assert await create(client) == 5


async def test_a_backup_becomes_a_database_where_there_is_none(
    filled: Settings, file: Path
) -> None:
    await asyncio.to_thread(backup, filled, file)
    filled.path.unlink()
    await put(filled, file)
    async with running(create_app(filled)) as client:
        assert await ids(client) == [1, 2, 3]


@pytest.mark.parametrize("room", [4_096, 16_384, 30_000])
def test_where_there_was_no_database_a_full_disk_leaves_none(
    filled: Settings, file: Path, room: int
) -> None:
    backup(filled, file)
    filled.path.unlink()
    with room_for(room), pytest.raises(StartError, match=r"cannot be written|full|disk I/O"):
        restore(filled, file, heroes.table)
    assert list(filled.path.parent.iterdir()) == [file.parent]


def test_a_backup_is_no_match_for_the_log_of_a_database_that_is_gone(
    filled: Settings, file: Path
) -> None:
    backup(filled, file)
    with connection_to(filled) as other:
        other.execute("DELETE FROM hero")
        log = Path(f"{filled.path}-wal").read_bytes()
    filled.path.unlink()
    Path(f"{filled.path}-wal").write_bytes(log)
    with pytest.raises(StartError, match=r"it is missing, but not .*-wal; restore it, or"):
        restore(filled, file, heroes.table)
    assert not filled.path.exists()


def leave_a_journal(path: Path) -> None:
    """Let a crash leave a change of a file half written, and beside it what was there before."""
    crashed = path.with_name("crashed.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN")
        connection.execute("UPDATE hero SET secret_name = hex(zeroblob(100000))")
        for end in ("", "-journal"):
            shutil.copyfile(f"{path}{end}", f"{crashed}{end}")
        connection.execute("ROLLBACK")
    path.write_bytes(crashed.read_bytes())
    crashed.with_name(f"{crashed.name}-journal").rename(f"{path}-journal")


def test_a_backup_is_no_match_for_the_journal_of_a_database_that_is_gone(
    filled: Settings, file: Path
) -> None:
    backup(filled, file)
    leave_a_journal(filled.path)
    journal = Path(f"{filled.path}-journal")
    content = journal.read_bytes()
    filled.path.rename(filled.path.with_name("moved.db"))
    with pytest.raises(StartError, match=r"it is missing, but not .*-journal; restore it, or"):
        restore(filled, file, heroes.table)
    assert not filled.path.exists()
    assert journal.read_bytes() == content


@pytest.mark.usefixtures("unguarded")
async def test_a_backup_in_another_encoding_is_refused(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA encoding='UTF-16'")
        with closing(sqlite3.connect(settings.path)) as live:
            for (statement,) in live.execute("SELECT sql FROM sqlite_master WHERE sql LIKE 'C%'"):
                if "sqlite_" not in statement:
                    connection.execute(statement)
    await create(client)
    with pytest.raises(StartError, match=r"in another encoding"):
        await put(settings, file)
    assert await create(client) == 2


@pytest.mark.usefixtures("unguarded")
async def test_a_backup_of_other_pages_is_restored(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    await create(client)
    with closing(sqlite3.connect(settings.path)) as connection:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("VACUUM INTO ?", (str(file),))
    assert in_file(file, "PRAGMA page_size") == [(8192,)]
    await create(client)
    await put(settings, file)
    assert await ids(client) == [1]
    assert in_file(settings.path, "PRAGMA page_size") == [(4096,)]


@pytest.mark.usefixtures("unguarded")
async def test_a_backup_of_an_older_form_gets_what_it_lacks(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    in_file(file, OLD.replace("name VARCHAR,", "name VARCHAR NOT NULL,"))
    in_file(file, "INSERT INTO hero (name, secret_name) VALUES ('old', 's')")
    await create(client)
    await create(client)
    await put(settings, file)
    assert (await client.get("/heroes/")).json() == [
        {"id": 1, "name": "old", "age": None, "secret_name": "s"}
    ]
    assert await create(client, age=3) == 3
    assert len(in_file(file, "SELECT * FROM pragma_table_info('hero')")) == 3  # it was only read


async def test_a_file_of_the_tutorial_is_restored_into_one(settings: Settings, file: Path) -> None:
    make(settings.path, "INSERT INTO hero VALUES (1, 'Deadpond', 30, 'Dive Wilson')")
    await asyncio.to_thread(backup, settings, file)
    in_file(settings.path, "DELETE FROM hero")
    await put(settings, file)
    async with running(create_app(settings)) as client:
        assert await ids(client) == [1]


async def test_a_table_that_would_give_ids_again_is_refused(filled: Settings, file: Path) -> None:
    make(file, "INSERT INTO hero VALUES (1, 'Deadpond', 30, 'Dive Wilson')")
    with pytest.raises(StartError, match=rf"\A{file} has a table hero of another kind.*\Z"):
        await put(filled, file)
    async with running(create_app(filled)) as client:
        assert await ids(client) == [1, 2, 3]


def test_ids_of_other_tables_are_not_given_again_either(filled: Settings, file: Path) -> None:
    in_file(filled.path, "CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    backup(filled, file)
    in_file(filled.path, "INSERT INTO other VALUES (7)")
    restore(filled, file, heroes.table)
    assert in_file(filled.path, "INSERT INTO other VALUES (NULL) RETURNING id") == [(8,)]


REFUSED = {
    "text": (b"no database", r"file is not a database"),
    "nothing": (b"", r"has no table hero"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_backup_is_refused_in_a_line(
    filled: Settings, file: Path, content: bytes, reason: str
) -> None:
    file.write_bytes(content)
    before = filled.path.read_bytes()
    with pytest.raises(StartError, match=rf"\A{file}:? .*{reason}.*\Z"):
        restore(filled, file, heroes.table)
    assert filled.path.read_bytes() == before
    assert sorted(filled.path.parent.iterdir()) == [file.parent, filled.path]


@pytest.mark.parametrize("content", [None, b"no database", b""])
def test_where_there_is_no_backup_no_database_is_made(
    settings: Settings, file: Path, content: bytes | None
) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StartError):
        restore(settings, file, heroes.table)
    assert not settings.path.exists()


def test_a_backup_of_an_older_form_is_restored_in_a_directory_of_any_name(
    tmp_path: Path, file: Path
) -> None:
    in_file(file, OLD.replace("name VARCHAR,", "name VARCHAR NOT NULL,"))
    directory = tmp_path / "100%41 a?b"
    directory.mkdir()
    settings = Settings(database_url=f"sqlite:///{tmp_path}/100%2541 a%3Fb/heroes.db")
    restore(settings, file, heroes.table)
    assert len(in_file(directory / "heroes.db", "SELECT * FROM pragma_table_info('hero')")) == 4
    assert sorted(tmp_path.iterdir()) == [directory, file.parent]


def test_a_backup_that_cannot_be_upgraded_is_named(filled: Settings, file: Path) -> None:
    in_file(file, "CREATE TABLE hero (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR)")
    with pytest.raises(StartError, match=rf"\ANothing was changed in {file}: secret_name .*\Z"):
        restore(filled, file, heroes.table)


def test_a_damaged_backup_is_refused(filled: Settings, file: Path) -> None:
    backup(filled, file)
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    before = filled.path.read_bytes()
    with pytest.raises(StartError, match=rf"\A{file}.*(malformed|damaged).*\Z"):
        restore(filled, file, heroes.table)
    assert filled.path.read_bytes() == before


def test_what_is_said_of_a_damaged_database_leads_to_a_restore(
    filled: Settings, file: Path
) -> None:
    backup(filled, file)
    filled.path.write_bytes(b"no database")
    for ended in (run("check", path=filled.path), run("restore", str(file), path=filled.path)):
        assert "move it away, and restore a backup" in ended.stderr
    filled.path.unlink()
    assert run("restore", str(file), path=filled.path).returncode == 0
    assert in_file(filled.path, "SELECT count(*) FROM hero") == [(3,)]


def test_the_database_itself_is_no_backup(filled: Settings) -> None:
    with pytest.raises(StartError, match=r"is the database itself"):
        restore(filled, filled.path, heroes.table)


class StoppedAtTheEnd(sqlite3.Connection):
    """A connection whose backup is complete when Ctrl-C is pressed."""

    def backup(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().backup(*arguments, **options)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_restore_that_is_stopped_late_does_not_say_that_nothing_was_changed(
    monkeypatch: pytest.MonkeyPatch, filled: Settings, file: Path, *, is_there: bool
) -> None:
    backup(filled, file)
    if is_there:
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=StoppedAtTheEnd))
    else:
        filled.path.unlink()
        monkeypatch.setattr(os, "link", lambda *_: signal.raise_signal(signal.SIGINT))
    ended = run("restore", str(file), path=filled.path)
    assert ended.returncode == 1
    assert ended.stderr.endswith(f"{filled.path} has what it had, or all that {file} has\n")


@pytest.mark.usefixtures("unguarded")
async def test_a_restore_gives_up_where_a_lock_is_held_for_too_long(
    client: httpx.AsyncClient, settings: Settings, file: Path
) -> None:
    await create(client)
    await asyncio.to_thread(backup, settings, file)
    await create(client)
    with connection_to(settings) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StartError, match=r"\A.*another process keeps it locked\Z"):
            await asyncio.to_thread(restore, settings, file, heroes.table, patience=0.1)
    assert await ids(client) == [1, 2]
    await put(settings, file)
    assert await ids(client) == [1]


# Beside a service that writes


@pytest.fixture
async def served(filled: Settings, file: Path) -> AsyncIterator[Settings]:
    """Settings of a database that a service has open, and of which there is a backup."""
    await asyncio.to_thread(backup, filled, file)
    async with running(create_app(filled)):
        yield filled


OPEN = r"\A.*another process has it open.*stop the service first\Z"


@pytest.mark.usefixtures("guarded")
def test_a_restore_is_no_second_writer(served: Settings, file: Path) -> None:
    with pytest.raises(StartError, match=OPEN):
        restore(served, file, heroes.table)


def test_a_backup_shares_no_log_with_a_service_whose_database_is_gone(
    served: Settings, file: Path
) -> None:
    served.path.unlink()
    with pytest.raises(StartError, match=r"it is missing, but not .*-wal and .*-shm; restore"):
        restore(served, file, heroes.table)
    assert not served.path.exists()


@pytest.mark.usefixtures("guarded")
def test_an_upgrade_is_no_second_writer(served: Settings) -> None:
    with pytest.raises(StartError, match=OPEN):
        upgrade(served, [heroes.table])


@pytest.mark.usefixtures("guarded")
def test_a_copy_is_no_second_writer(served: Settings, file: Path) -> None:
    source = Settings(database_url=f"sqlite:///{file}")
    with Progress() as progress, pytest.raises(StartError, match=OPEN):
        copy(source, served, heroes.table, progress)


@pytest.mark.usefixtures("guarded")
def test_a_seed_is_no_second_writer(served: Settings) -> None:
    rng = random.Random(1)
    with Progress() as progress, pytest.raises(StartError, match=OPEN):
        seed(served, heroes.table, 10, progress, rng=rng, replace=False)


@pytest.mark.usefixtures("guarded")
def test_a_backup_and_a_copy_from_the_file_write_nothing_and_are_made(
    served: Settings, file: Path
) -> None:
    backup(served, file.with_name("another.db"))
    target = Settings(database_url=f"sqlite:///{file.with_name('target.db')}")
    with Progress() as progress:
        assert copy(served, target, heroes.table, progress).heroes == 3


@pytest.mark.usefixtures("guarded")
def test_what_was_left_by_a_crash_is_no_other_process(filled: Settings, file: Path) -> None:
    backup(filled, file)
    left = file.with_name("left.db")
    with connection_to(filled) as connection:
        connection.execute("INSERT INTO hero (name, secret_name) VALUES ('last', 's')")
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{filled.path}{suffix}", f"{left}{suffix}")
    crashed = Settings(database_url=f"sqlite:///{left}")
    assert upgrade(crashed, [heroes.table]) == []
    assert in_file(left, "SELECT max(id) FROM hero") == [(4,)]


# The commands


def test_the_commands_say_what_they_did(filled: Settings, file: Path) -> None:
    ended = run("backup", str(file), path=filled.path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert str(file) in ended.stdout
    ended = run("restore", str(file), path=filled.path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert str(file) in ended.stdout


@pytest.mark.parametrize(("command", "tool"), [("backup", "pg_dump"), ("restore", "pg_restore")])
def test_postgresql_has_tools_of_its_own(
    monkeypatch: pytest.MonkeyPatch, file: Path, command: str, tool: str
) -> None:
    monkeypatch.setenv("HERO_API_DATABASE_URL", "postgresql://127.0.0.1:1/heroes")
    monkeypatch.setattr("sys.argv", ["hero-api", command, str(file)])
    with pytest.raises(SystemExit, match=tool):
        main()
