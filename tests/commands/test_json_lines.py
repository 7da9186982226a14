"""`hero-api export` and `hero-api import`, on both engines."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from hero_api.app import create_app
from hero_api.commands.json_lines import Imported, export_lines, import_lines
from hero_api.commands.progress import Progress
from hero_api.database.sessions import ReadWriteSession
from hero_api.database.sqlite import engine
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.models import HeroCreate, HeroPublic
from hero_api.settings import PREFIX, Settings
from hero_api.testing import running
from tests.clusters import connection_to, insert
from tests.command import run
from tests.commands.test_copy import make_table
from tests.servers import ROOT

GOOD = {"name": "Deadpond", "secret_name": "Dive Wilson"}
SOON = 30.0  # seconds
MANY = 2_500  # lines: three chunks


@pytest.fixture(autouse=True)
def _unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "has_wal_reset_fault", lambda: False)


def lines(*objects: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def exported(settings: Settings) -> bytes:
    target = io.BytesIO()
    with Progress() as progress:
        export_lines(settings, heroes, HeroPublic, target, progress)
    return target.getvalue()


def imported(settings: Settings, content: bytes, *, skips_bad: bool = False) -> Imported:
    with Progress() as progress:
        source = io.BytesIO(content)
        return import_lines(settings, heroes, HeroCreate, source, progress, skips_bad=skips_bad)


def stored_ids(settings: Settings) -> Sequence[int]:
    return [json.loads(line)["id"] for line in exported(settings).splitlines()]


async def test_an_export_has_each_hero_as_the_api_answers_it(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    for hero in (GOOD, GOOD | {"age": 3, "name": 'line\nend "quoted" \u2028 Zoë 🦸'}):
        await client.post("/heroes/", json=hero)
    content = await asyncio.to_thread(exported, settings)
    each = [(await client.get(f"/heroes/{hero_id}")).content for hero_id in (1, 2)]
    assert content.split(b"\n") == [*each, b""]


def test_what_was_exported_is_imported_with_its_ids(settings: Settings) -> None:
    content = lines(*({"id": 3 * n, **GOOD, "age": n} for n in range(1, MANY + 1)))
    assert imported(settings, content) == (MANY, 0)
    content = exported(settings)
    with connection_to(settings) as connection:
        connection.execute("DELETE FROM hero")
    assert imported(settings, content) == (MANY, 0)
    assert exported(settings) == content


async def test_lines_without_an_id_get_one_that_no_other_has(settings: Settings) -> None:
    content = lines(GOOD, {"id": 1, **GOOD}, GOOD, {"id": 5, **GOOD})
    await asyncio.to_thread(imported, settings, content)
    async with running(create_app(settings)) as client:
        await client.post("/heroes/", json=GOOD)
        ids = [hero["id"] for hero in (await client.get("/heroes/")).json()]
        assert len(ids) == 5
        assert {1, 5} < {*ids}


def test_blank_lines_and_a_missing_end_of_the_last_are_no_matter(settings: Settings) -> None:
    content = b"\n" + lines(GOOD) + b" \r\n" + lines(GOOD).rstrip()
    assert imported(settings, content) == (2, 0)


BAD = {
    "no JSON": (b"{", "Invalid JSON"),
    "no object": (b"[]", "should be an object"),
    "no name": (lines({"secret_name": "s"}), "name: Field required"),
    "an age that is too large": (lines(GOOD | {"age": 2**40}), "age: "),
    "an id that is taken": (lines(GOOD | {"id": 1}), "1"),
    "an id that the file has twice": (lines(GOOD | {"id": 2}), "2"),
    "what the database refuses": (lines(GOOD | {"name": "second"}), "refuses this change"),
}


@pytest.fixture
def picky(settings: Settings) -> Settings:
    """Settings of a database with one hero, and with names that must differ."""
    make_table(settings)
    insert(settings, (1, "first", None, "s"))
    with connection_to(settings) as connection:
        connection.execute("CREATE UNIQUE INDEX picky ON hero (name) WHERE name = 'second'")
    return settings


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_line_is_named_and_nothing_is_stored(
    picky: Settings, bad: bytes, reason: str
) -> None:
    good = [GOOD] * (MANY - 2)
    content = lines(GOOD | {"id": 2, "name": "second"}, *good) + bad.rstrip() + b"\n" + lines(GOOD)
    with pytest.raises(StartError, match=rf"\ANothing was stored in .*: line {MANY}: .*{reason}"):
        imported(picky, content)
    assert stored_ids(picky) == [1]


@pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_lines_are_passed_over_where_that_is_wished(
    picky: Settings, bad: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = lines(GOOD | {"id": 2, "name": "second"}) + bad.rstrip() + b"\n" + lines(GOOD, GOOD)
    assert imported(picky, content, skips_bad=True) == (3, 1)
    assert len(stored_ids(picky)) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "line 2 was passed over" in said
    assert reason in said


def test_a_line_without_end_is_named_and_not_read(settings: Settings) -> None:
    with pytest.raises(StartError, match="line 2: is longer"):
        imported(settings, lines(GOOD) + b"x" * 3_000_000)
    assert stored_ids(settings) == []


def test_a_line_that_is_too_long_can_be_passed_over_too(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    content = lines(GOOD) + b"x" * 3_000_000 + b"\n" + lines(GOOD) + b"x" * 3_000_000
    assert imported(settings, content, skips_bad=True) == (2, 2)
    said = " ".join(capsys.readouterr().err.split())
    assert all(f"line {n} was passed over: is longer" in said for n in (2, 4))


def test_a_line_may_have_a_million_bytes_and_no_more(settings: Settings) -> None:
    line = lines(GOOD).rstrip().ljust(1_000_000)
    assert imported(settings, line + b"\n" + line) == (2, 0)
    with pytest.raises(StartError, match="line 1: is longer"):
        imported(settings, line + b" \n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_that_is_stopped_while_it_commits_does_not_say_that_nothing_is_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    commit = ReadWriteSession.commit

    async def commit_and_stop(session: ReadWriteSession) -> None:
        await commit(session)
        signal.raise_signal(number)
        await asyncio.sleep(SOON)

    monkeypatch.setattr(ReadWriteSession, "commit", commit_and_stop)
    file = tmp_path / "heroes.jsonl"
    file.write_bytes(lines(GOOD))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended = run("import", str(file), database_url=settings.database_url)
    signal.signal(signal.SIGTERM, before)
    assert ended.returncode == 1
    assert "Stopped. It is not known whether all is stored" in ended.stderr
    assert len(stored_ids(settings)) == 1


@pytest.mark.sqlite
def test_a_row_that_no_hero_can_be_is_named(settings: Settings) -> None:
    make_table(settings)
    with connection_to(settings) as connection:
        connection.execute("INSERT INTO hero VALUES (7, 'name', 'no number', 's')")
    with pytest.raises(StartError, match=r"hero 7 holds values of the wrong type"):
        exported(settings)


@pytest.mark.sqlite
async def test_an_import_is_no_second_writer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "has_wal_reset_fault", lambda: True)
    async with running(create_app(settings)):
        with pytest.raises(StartError, match="stop the service first"):
            await asyncio.to_thread(imported, settings, lines(GOOD))


# The commands


def command(
    settings: Settings,
    *arguments: str,
    content: bytes = b"",
    program: Sequence[str] = (sys.executable, "-m", "hero_api"),
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*program, *arguments],
        cwd=ROOT,
        env=os.environ | {f"{PREFIX}DATABASE_URL": settings.database_url},
        input=content,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.sqlite
def test_the_standard_streams_are_files_too(settings: Settings) -> None:
    ended = command(settings, "import", "-", content=lines(GOOD, {}))
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"line 2: name: Field required" in ended.stderr
    ended = command(settings, "import", "--skip-bad", "-", content=lines(GOOD, {}))
    assert (ended.returncode, ended.stdout) == (0, b"1 hero stored, 1 line passed over\n")
    ended = command(settings, "export", "-")
    assert (ended.returncode, ended.stdout) == (0, exported(settings))


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("closed", "said"),
    [("export - >&-", b"The output is closed"), ("import - <&-", b"The input is closed")],
)
def test_a_stream_that_is_closed_is_one_line(settings: Settings, closed: str, said: bytes) -> None:
    make_table(settings)
    program = ["sh", "-c", f'exec "$0" -m hero_api {closed}', sys.executable]
    ended = command(settings, program=program)
    assert (ended.returncode, ended.stderr) == (1, b"hero-api: " + said + b"; name a file\n")


@pytest.mark.sqlite
@pytest.mark.parametrize(("file", "left"), [("-", "not all was written"), ("x", "there is no x")])
def test_an_export_that_is_stopped_says_what_it_has_left(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, left: str
) -> None:
    monkeypatch.chdir(tmp_path)
    export = "hero_api.commands.json_lines.export_lines"
    monkeypatch.setattr(export, lambda *_: signal.raise_signal(signal.SIGINT))
    ended = run("export", file, database_url=settings.database_url)
    assert (ended.returncode, ended.stderr) == (1, f"hero-api: Stopped; {left}\n")
    assert not Path(file).exists()


@pytest.mark.sqlite
def test_a_file_is_written_whole_or_not_at_all(settings: Settings, tmp_path: Path) -> None:
    make_table(settings)
    insert(settings, (1, "first", None, "s"))
    url, file = settings.database_url, tmp_path / "heroes.jsonl"
    assert run("export", str(file), database_url=url).returncode == 0
    assert file.read_bytes() == exported(settings)
    ended = run("export", str(file), database_url=url)
    assert ended.returncode == 1
    assert "is there already" in ended.stderr
    with connection_to(settings) as connection:
        connection.execute("UPDATE hero SET age = 'no number'")
    other = tmp_path / "other.jsonl"
    assert run("export", str(other), database_url=url).returncode == 1
    assert not other.exists()


@pytest.mark.sqlite
def test_a_reader_that_goes_away_is_one_line(settings: Settings) -> None:
    make_table(settings)
    insert(settings, *((n, "x" * 500, None, "s" * 1000) for n in range(1, 500)))
    with subprocess.Popen(
        [sys.executable, "-m", "hero_api", "export", "-"],
        cwd=ROOT,
        env=os.environ | {f"{PREFIX}DATABASE_URL": settings.database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode().splitlines()
        assert process.wait(60) == 1
    assert said[-1] == "hero-api: -: Broken pipe"
