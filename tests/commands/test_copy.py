"""`hero-api copy`, from each engine to each."""

import asyncio
import os
import pty
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table

from hero_api.app import create_app
from hero_api.commands.copy import Copied, copy
from hero_api.commands.progress import Progress
from hero_api.database.sessions import open_database
from hero_api.database.transfer import Row
from hero_api.errors import StartError
from hero_api.heroes import heroes
from hero_api.settings import PREFIX, Settings
from hero_api.testing import running
from tests.clusters import Cluster, connection_to, stored
from tests.command import run
from tests.forked import ForkedProcess
from tests.servers import ROOT

SOON = 60.0  # seconds: far more than anything here takes
BOTH = ("sqlite", "postgresql")
MAX_ID = 2**63 - 1
LOCK = 0x636F7079  # "copy"
MANY = 100_000  # heroes: ten transactions of a copy
HEROES: Sequence[Row] = [
    (-(2**63), "the least id", 1, "s"),
    (-3, "Zoë", None, "🦸" * 10),
    (0, "zero", 0, ""),
    (1, "Deadpond", 30, "Dive Wilson"),
    (2, "tab\tline\nreturn\rback\\slash \\N \\.", 2**31 - 1, "'quoted' \"twice\""),
    (5, "\U0001d573" * 500, -1, "\U0010ffff" * 10_000),
    (1_000, "\u0001\u2028\ufeff\x7f", -(2**31), "\\."),
]
PROGRESS = re.compile(r"(copied|compared) [\d,]+ of [\d,]+ heroes")
Make = Callable[[str], Settings]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return what makes settings for a database of an engine that nobody used before."""
    paths = (tmp_path / f"heroes_{number}.db" for number in range(100))

    def make(engine: str) -> Settings:
        if engine == "postgresql":
            cluster: Cluster = request.getfixturevalue("cluster")
            return Settings(database_url=cluster.new_schema())
        return Settings(database_url=f"sqlite:///{next(paths)}")

    return make


@pytest.fixture(params=[(one, other) for one in BOTH for other in BOTH], ids="-to-".join)
def ends(request: pytest.FixtureRequest, make: Make) -> tuple[Settings, Settings]:
    """Two databases, of the same or of two engines."""
    source, target = request.param
    return make(source), make(target)


@pytest.fixture
def tutorial(tmp_path: Path) -> Settings:
    """A file as the tutorial makes it, in a rollback journal's mode."""
    path = tmp_path / "database.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE hero (id INTEGER NOT NULL, name VARCHAR NOT NULL, age INTEGER, "
            "secret_name VARCHAR NOT NULL, PRIMARY KEY (id))"
        )
        connection.executemany("INSERT INTO hero VALUES (?, ?, ?, ?)", numbered(3))
        connection.commit()
    return Settings(database_url=f"sqlite:///{path}")


def numbered(count: int, first: int = 1) -> list[Row]:
    return [
        (n, f"Hero {n}", n % 100 if n % 7 else None, f"Secret {n}")
        for n in range(first, first + count)
    ]


def make_table(settings: Settings) -> None:
    async def start() -> None:
        async with open_database(settings, {}, [heroes.table]):
            pass

    asyncio.run(start())


def fill(settings: Settings, rows: Sequence[Row]) -> None:
    """Make the table as the service does, and write the heroes past it."""
    make_table(settings)
    values = "%s, %s, %s, %s" if settings.is_postgresql else "?, ?, ?, ?"
    with connection_to(settings) as connection:
        connection.execute("BEGIN")
        connection.cursor().executemany(
            f"INSERT INTO hero (id, name, age, secret_name) VALUES ({values})", rows
        )
        connection.execute("COMMIT")


def change(settings: Settings, statement: str) -> None:
    with connection_to(settings) as connection:
        connection.execute(statement)


def next_id(settings: Settings) -> int:
    """Create a hero through the service, and return the id that it got."""

    async def create() -> int:
        async with running(create_app(settings)) as client:
            answer = await client.post("/heroes/", json={"name": "n", "secret_name": "s"})
            assert answer.status_code == 200
            hero_id: int = answer.json()["id"]
            return hero_id

    return asyncio.run(create())


def command(source: Settings | str, target: Settings | str) -> list[str]:
    urls = [end if isinstance(end, str) else end.database_url for end in (source, target)]
    return [sys.executable, "-m", "hero_api", "copy", *urls]


def environment() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if not name.startswith(PREFIX)}


def run_copy(source: Settings | str, target: Settings | str) -> "subprocess.CompletedProcess[str]":
    return run(*command(source, target)[3:])


def refused(source: Settings | str, target: Settings | str) -> str:
    """Return the one line of a copy that fails."""
    ended = run_copy(source, target)
    assert ended.returncode == 1, ended.stdout
    assert ended.stdout == ""
    # Beside the lines of its progress.
    lines = [line for line in ended.stderr.splitlines() if not PROGRESS.fullmatch(line)]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("hero-api: ")
    return lines[0]


def copied(source: Settings, target: Settings) -> Copied:
    with Progress() as progress:
        return copy(source, target, heroes.table, progress)


@contextmanager
def under_way(source: Settings, target: Settings, errors: Path) -> Iterator[ForkedProcess]:
    """Start a copy, and wait until some more heroes are in the target."""
    before = count(target)
    with closing(
        ForkedProcess(command(source, target)[1:], environment(), ROOT, errors)
    ) as process:
        deadline = time.monotonic() + SOON
        while count(target) <= before:
            assert process.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process


def count(settings: Settings) -> int:
    """Return how many heroes are there; none where there is no table yet."""
    number = 0
    if settings.is_postgresql or settings.path.exists():
        with (
            suppress(sqlite3.OperationalError, psycopg.errors.UndefinedTable),
            connection_to(settings) as connection,
        ):
            [number] = connection.execute("SELECT count(*) FROM hero").fetchone()
    return number


class Meddling(Progress):
    """Lets something happen when a copy is done, before both sides are compared."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        super().__init__()
        self._meddle = meddle

    def advance(self, number: int) -> None:
        super().advance(number)
        self._meddle()
        self._meddle = lambda: None


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of many heroes, which no test changes."""
    path = tmp_path_factory.mktemp("many") / "heroes.db"
    fill(Settings(database_url=f"sqlite:///{path}"), numbered(MANY))
    return path


@pytest.fixture
def large(many: Path, tmp_path: Path) -> Settings:
    """A copy of it that is the test's own."""
    path = tmp_path / "large.db"
    shutil.copyfile(many, path)
    return Settings(database_url=f"sqlite:///{path}")


# What is copied


def test_every_hero_is_copied_as_it_is(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    fill(source, HEROES)
    result = copied(source, target)
    assert (result.copied, result.heroes) == (len(HEROES), len(HEROES))
    assert stored(target) == stored(source) == HEROES


def test_a_round_trip_over_both_engines_ends_where_it_began(make: Make) -> None:
    file, table, other = make("sqlite"), make("postgresql"), make("sqlite")
    fill(file, HEROES)
    checksums = {copied(file, table).checksum, copied(table, other).checksum}
    assert stored(other) == HEROES
    assert len(checksums) == 1


def test_the_greatest_id_is_copied_once(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    fill(source, [(1, "n", 1, "s"), (MAX_ID, "n", 1, "s")])
    assert copied(source, target).copied == 2
    assert copied(source, target).copied == 0


def test_a_source_without_heroes_makes_an_empty_table(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    make_table(source)
    assert copied(source, target).heroes == 0
    assert stored(target) == []


def test_the_schema_is_the_one_that_the_service_makes(make: Make) -> None:
    source, target, made = make("postgresql"), make("sqlite"), make("sqlite")
    make_table(source)
    make_table(made)
    copied(source, target)
    schemas = []
    for settings in (target, made):
        with connection_to(settings) as connection:
            schemas.append(connection.execute("SELECT sql FROM sqlite_master").fetchall())
    assert schemas[0] == schemas[1]


def test_a_table_of_the_tutorials_that_has_no_heroes_is_filled(
    tutorial: Settings, make: Make
) -> None:
    source = make("sqlite")
    fill(source, HEROES)
    change(tutorial, "DELETE FROM hero")
    copied(source, tutorial)
    assert stored(tutorial) == HEROES


# The sequence


def test_the_next_id_follows_the_copied_ones(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    fill(source, HEROES)
    copied(source, target)
    assert next_id(target) == 1_001


def test_ids_of_zero_and_less_leave_the_first_id_to_the_first_hero(
    ends: tuple[Settings, Settings],
) -> None:
    source, target = ends
    fill(source, [(-5, "n", 1, "s"), (0, "n", 1, "s")])
    copied(source, target)
    assert next_id(target) == 1


def test_the_id_of_a_hero_that_was_deleted_is_not_given_again(
    ends: tuple[Settings, Settings],
) -> None:
    source, target = ends
    make_table(source)
    assert [next_id(source) for _ in range(3)] == [1, 2, 3]
    change(source, "DELETE FROM hero WHERE id > 1")
    copied(source, target)
    assert next_id(target) == 4


def test_a_huge_id_uses_up_none_of_postgresqls(make: Make) -> None:
    source, target = make("sqlite"), make("postgresql")
    fill(source, [(7, "n", 1, "s"), (MAX_ID, "n", 1, "s")])
    copied(source, target)
    assert next_id(target) == 8


# Interrupted copies


@pytest.mark.parametrize("engine", BOTH)
def test_a_copy_that_is_killed_or_interrupted_goes_on_where_it_was(
    large: Settings, make: Make, engine: str, tmp_path: Path
) -> None:
    target, errors = make(engine), tmp_path / "stderr"
    with under_way(large, target, tmp_path / "killed") as process:
        process.kill()
    after_kill = count(target)
    with under_way(large, target, errors) as process:
        process.send_signal(signal.SIGINT)
        assert (process.wait(SOON), process.stdout.read()) == (1, "")
    [line] = [line for line in errors.read_text().splitlines() if not PROGRESS.fullmatch(line)]
    assert "run the same command again" in line
    rest = MANY - count(target)
    assert 0 < rest < MANY - after_kill < MANY
    assert copied(large, target).copied == rest
    assert stored(target) == stored(large)
    assert next_id(target) == MANY + 1


def test_what_is_copied_already_is_not_copied_again(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    fill(source, HEROES)
    fill(target, HEROES[:3])
    assert copied(source, target).copied == len(HEROES) - 3
    assert stored(target) == HEROES
    assert copied(source, target).copied == 0


# Differences


OTHERS = {
    "another name": (1, "Another", 30, "Dive Wilson"),
    "another age": (1, "Deadpond", 31, "Dive Wilson"),
    "no age": (1, "Deadpond", None, "Dive Wilson"),
    "another secret": (1, "Deadpond", 30, "dive wilson"),
    "another id": (2, "Deadpond", 30, "Dive Wilson"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("engine", BOTH)
def test_a_target_that_has_another_hero_is_refused_and_left_as_it_is(
    make: Make, engine: str, other: Row
) -> None:
    source, target = make("sqlite"), make(engine)
    fill(source, [(1, "Deadpond", 30, "Dive Wilson"), *numbered(5, first=3)])
    fill(target, [other])
    with pytest.raises(StartError, match=r"hero 1 is not the same .* nothing was copied"):
        copied(source, target)
    assert stored(target) == [other]


def test_no_age_is_not_the_age_zero(ends: tuple[Settings, Settings]) -> None:
    source, target = ends
    fill(source, [(1, "n", None, "s")])
    fill(target, [(1, "n", 0, "s")])
    with pytest.raises(StartError, match="hero 1 is not the same"):
        copied(source, target)


def test_a_file_with_others_is_not_even_switched_to_wal(tutorial: Settings, make: Make) -> None:
    source = make("sqlite")
    fill(source, HEROES)
    before = tutorial.path.read_bytes()
    with pytest.raises(StartError, match="nothing was copied"):
        copied(source, tutorial)
    assert tutorial.path.read_bytes() == before


def test_a_hero_that_came_below_those_that_were_copied_is_noticed(
    ends: tuple[Settings, Settings],
) -> None:
    source, target = ends
    fill(source, HEROES)
    fill(target, [HEROES[0], *HEROES[2:4]])
    with pytest.raises(StartError, match="hero -3 is not the same"):
        copied(source, target)


CHANGES = {
    "an age": ("UPDATE hero SET age = 7 WHERE id = 3", 3),
    "an age that is zero now": ("UPDATE hero SET age = 0 WHERE id = 7", 7),
    "a name": ("UPDATE hero SET name = 'x' WHERE id = 1", 1),
    "a secret": ("UPDATE hero SET secret_name = 'x' WHERE id = 20", 20),
    "a hero less": ("DELETE FROM hero WHERE id = 5", 5),
    "a hero more": ("INSERT INTO hero (id, name, secret_name) VALUES (0, 'n', 's')", 0),
}


@pytest.mark.parametrize(("statement", "hero_id"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("which", [0, 1], ids=["source", "target"])
def test_what_is_written_during_the_copy_is_noticed_at_the_end(
    make: Make, which: int, statement: str, hero_id: int
) -> None:
    ends = make("sqlite"), make("postgresql")
    fill(ends[0], numbered(20))
    with (
        Meddling(lambda: change(ends[which], statement)) as progress,
        pytest.raises(StartError, match=f"Hero {hero_id} is not the same .* was written meanwhile"),
    ):
        copy(*ends, heroes.table, progress)


def test_what_is_stored_behind_the_last_hero_meanwhile_is_copied_by_the_next_run(
    ends: tuple[Settings, Settings],
) -> None:
    source, target = ends
    fill(source, numbered(20))
    statement = "INSERT INTO hero (id, name, secret_name) VALUES (50, 'n', 's')"
    with (
        Meddling(lambda: change(source, statement)) as progress,
        pytest.raises(StartError, match=r"more heroes .* from hero 50 on.* run the same command"),
    ):
        copy(source, target, heroes.table, progress)
    assert copied(source, target).copied == 1


def test_a_hero_of_postgresqls_that_is_changed_during_the_copy_is_noticed(make: Make) -> None:
    source, target = make("postgresql"), make("sqlite")
    fill(source, numbered(20))
    with (
        Meddling(lambda: change(source, "UPDATE hero SET age = 7 WHERE id = 3")) as progress,
        pytest.raises(StartError, match="Hero 3 is not the same"),
    ):
        copy(source, target, heroes.table, progress)


# What cannot be copied


def test_a_target_that_another_copy_fills_is_refused(
    make: Make, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = make("sqlite"), make("postgresql")
    fill(source, HEROES)
    monkeypatch.setattr("hero_api.database.postgresql.transfer._WAIT", 1)
    with cluster.connect() as connection:
        connection.execute(f"SELECT pg_advisory_lock({LOCK})")
        with pytest.raises(StartError, match="another copy"):
            copied(source, target)
    assert copied(source, target).heroes == len(HEROES)


def test_what_no_url_is_says_which_of_the_two(make: Make) -> None:
    file = make("sqlite")
    make_table(file)
    assert "SOURCE_URL is not a database URL" in refused("nonsense", file)
    assert "TARGET_URL names mysql" in refused(file, "mysql://a/b")
    assert "TARGET_URL is an in-memory" in refused(file, "sqlite://")


def test_a_source_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    source, target = (f"sqlite:///{tmp_path}/{name}.db" for name in ("source", "target"))
    assert "There is no database" in refused(source, target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", BOTH)
def test_a_source_without_a_table_of_heroes_is_refused(make: Make, engine: str) -> None:
    source, target = make(engine), make("sqlite")
    if engine == "sqlite":
        source.path.touch()
    assert "no table hero" in refused(source, target)
    assert not target.path.exists()


@pytest.mark.parametrize("engine", BOTH)
def test_one_database_is_not_copied_into_itself(make: Make, tmp_path: Path, engine: str) -> None:
    one = make(engine)
    fill(one, HEROES)
    other = one.database_url
    if engine == "sqlite":
        (tmp_path / "link.db").symlink_to(one.path)
        other = f"sqlite:///{tmp_path}/link.db"
    assert "the same database" in refused(one, other)


def test_a_server_that_is_not_there_is_one_line(make: Make) -> None:
    file, url = make("sqlite"), "postgresql://user:hidden@127.0.0.1:1/heroes"
    make_table(file)
    assert "Connection refused" in refused(url, file)
    line = refused(file, url)
    assert "Connection refused" in line
    assert "hidden" not in line


def test_a_directory_that_is_not_there_is_one_line(make: Make, tmp_path: Path) -> None:
    file = make("sqlite")
    make_table(file)
    assert "no directory" in refused(file, f"sqlite:///{tmp_path}/nowhere/heroes.db")


def test_a_table_of_other_columns_is_refused(make: Make) -> None:
    source, target = make("sqlite"), make("postgresql")
    make_table(source)
    change(target, "CREATE TABLE hero (id bigserial PRIMARY KEY, title text)")
    assert "lacks name, age, secret_name" in refused(source, target)


UNSOUND = {
    "a BLOB for a name": ("x'ff', 1, 'a'", BOTH),
    "a BLOB for a secret": ("'a', 1, x'ff'", BOTH),
    "text for an age": ("'a', 'old', 'a'", BOTH),
    "a fraction for an age": ("'a', 1.5, 'a'", BOTH),
    "a name that is not UTF-8": ("CAST(x'ff' AS TEXT), 1, 'a'", BOTH),
    "a NUL in a name": ("CAST(x'610062' AS TEXT), 1, 'a'", BOTH[1:]),
    "a NUL in a secret": ("'a', 1, CAST(x'610062' AS TEXT)", BOTH[1:]),
    "an age of 64 bits": ("'a', 2147483648, 'a'", BOTH[1:]),
    "an age of 64 bits below zero": ("'a', -2147483649, 'a'", BOTH[1:]),
    "a name that no index holds": (f"'{secrets.token_hex(5_000)}', 1, 'a'", BOTH[1:]),
}


@pytest.mark.parametrize(
    ("values", "engine"),
    [(values, engine) for values, engines in UNSOUND.values() for engine in engines],
    ids=[f"{what}-to-{engine}" for what, (_, engines) in UNSOUND.items() for engine in engines],
)
def test_a_hero_that_the_target_cannot_store_is_named(make: Make, values: str, engine: str) -> None:
    source, target = make("sqlite"), make(engine)
    fill(source, numbered(50))
    change(source, f"INSERT INTO hero (id, name, age, secret_name) VALUES (33333, {values})")
    with pytest.raises(StartError, match=r"hero 33333\b") as refusal:
        copied(source, target)
    assert "\n" not in str(refusal.value)
    assert stored(target) == []
    change(source, "DELETE FROM hero WHERE id = 33333")
    assert copied(source, target).heroes == 50


def test_a_row_that_the_target_cannot_store_is_named_of_a_table_with_a_number_in_its_name(
    make: Make,
) -> None:
    key = BigInteger().with_variant(Integer, "sqlite")
    table = Table(
        "team99", MetaData(), Column("id", key, primary_key=True), Column("size", Integer)
    )
    source, target = make("sqlite"), make("postgresql")
    change(source, "CREATE TABLE team99 (id INTEGER PRIMARY KEY, size INTEGER)")
    change(source, "INSERT INTO team99 VALUES (1, 1), (2, 1), (33333, 9999999999)")
    change(target, "CREATE TABLE team99 (id bigserial PRIMARY KEY, size integer)")
    with pytest.raises(StartError, match="team99 33333: "), Progress() as progress:
        copy(source, target, table, progress)


def test_what_cannot_be_stored_leaves_whole_transactions_before_it(
    large: Settings, make: Make
) -> None:
    target = make("postgresql")
    change(large, "UPDATE hero SET age = 9999999999 WHERE id = 25000")
    line = refused(large, target)
    assert "hero 25000: " in line
    assert "run the same command again" in line
    assert count(target) == 20_000


# The source


def test_a_file_of_the_tutorials_is_left_as_it_is(tutorial: Settings, make: Make) -> None:
    before, files = tutorial.path.read_bytes(), sorted(tutorial.path.parent.iterdir())
    tutorial.path.chmod(0o444)
    for engine in BOTH:
        target = make(engine)
        copied(tutorial, target)
        assert stored(target) == numbered(3)
    assert tutorial.path.read_bytes() == before
    assert [path for path in files if path.exists()] == files
    assert not tutorial.path.with_name("database.db-wal").exists()


def test_a_closed_file_in_wal_mode_has_nothing_beside_it_afterwards(
    make: Make, tmp_path: Path
) -> None:
    source, target = make("sqlite"), make("postgresql")
    fill(source, HEROES)
    before, files = source.path.read_bytes(), sorted(tmp_path.iterdir())
    copied(source, target)
    assert source.path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files


def test_what_a_killed_service_left_in_its_wal_is_copied_and_stays_there(
    make: Make, tmp_path: Path
) -> None:
    served, target = make("sqlite"), make("sqlite")
    make_table(served)
    source = Settings(database_url=f"sqlite:///{tmp_path}/left.db")
    with closing(sqlite3.connect(served.path)) as connection, connection:
        connection.executemany("INSERT INTO hero VALUES (?, ?, ?, ?)", HEROES)
        connection.commit()
        for end in ("", "-wal"):
            shutil.copyfile(f"{served.path}{end}", f"{source.path}{end}")
    before = [Path(f"{source.path}{end}").read_bytes() for end in ("", "-wal")]
    copied(source, target)
    assert [Path(f"{source.path}{end}").read_bytes() for end in ("", "-wal")] == before
    assert stored(target) == HEROES


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_change_that_a_crash_left_half_written_is_not_read(
    tutorial: Settings, make: Make, tmp_path: Path, mode: str
) -> None:
    crashed = Settings(database_url=f"sqlite:///{tmp_path}/crashed.db")
    with closing(sqlite3.connect(tutorial.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO hero VALUES (?, ?, ?, ?)", numbered(9_000, first=4))
        for end in ("", "-journal"):
            shutil.copyfile(f"{tutorial.path}{end}", f"{crashed.path}{end}")
        connection.execute("ROLLBACK")
    if mode == "WAL":  # as where it was changed to or from that
        with crashed.path.open("r+b") as file:
            file.seek(18)
            file.write(b"\2\2")
    before = crashed.path.read_bytes()
    assert "let `hero-api serve` open it once" in refused(crashed, make("sqlite"))
    assert crashed.path.read_bytes() == before
    assert next_id(crashed) == 4
    assert copied(crashed, make("sqlite")).heroes == 4


# What is seen of it


def test_the_end_is_a_line_with_the_count_and_the_checksum(make: Make) -> None:
    source, target = make("sqlite"), make("postgresql")
    fill(source, HEROES)
    ended = run_copy(source, target)
    assert ended.returncode == 0
    assert re.fullmatch(
        r"7 heroes copied; both have 7, each the same \(SHA-256 [0-9a-f]{64}\)\n", ended.stdout
    )


def test_where_no_terminal_is_progress_is_a_line_for_each_step(make: Make) -> None:
    source, target = make("sqlite"), make("sqlite")
    fill(source, HEROES)
    assert run_copy(source, target).stderr.splitlines() == [
        "copied 7 of 7 heroes",
        "compared 7 of 7 heroes",
    ]


def test_on_a_terminal_progress_is_a_bar(make: Make) -> None:
    source, target = make("sqlite"), make("sqlite")
    fill(source, HEROES)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(source, target),
        cwd=ROOT,
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # EIO is the end of it
            while data := os.read(ours, 65_536):
                seen += data
        os.close(ours)
    assert process.returncode == 0
    text = seen.decode()
    assert "copied" in text
    assert "━━━" in text
    assert "7/7" in text


MEASURED = """
import sys
from hero_api.cli import main
main_ended = None
try:
    main()
except SystemExit as ended:
    main_ended = ended.code
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print("peak", peak.split()[1])
sys.exit(main_ended)
"""


def peak(source: Settings, target: Settings) -> float:
    """Return the most memory that a copy had, in megabytes."""
    ended = run(*command(source, target)[3:], program=("-c", MEASURED))
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.split()[-1]) / 1024


def test_the_memory_does_not_grow_with_the_heroes(large: Settings, make: Make) -> None:
    few, target, other = make("sqlite"), make("postgresql"), make("postgresql")
    fill(few, numbered(10_000))
    assert peak(large, target) - peak(few, other) < 20
    # And the other way.
    assert peak(target, make("sqlite")) - peak(other, make("sqlite")) < 20
