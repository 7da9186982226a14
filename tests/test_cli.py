"""The command `hero-api`, but for `hero-api serve` when it serves."""

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from hero_api.commands.check import find_damage
from hero_api.database.sqlite import engine
from hero_api.heroes import heroes

from . import command
from .servers import ROOT, UNPRIVILEGED, serving

TABLE = (
    "CREATE TABLE hero (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, age INTEGER, "
    "secret_name VARCHAR NOT NULL)"
)


def run(
    *arguments: str, path: Path | None = None, program: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    url = None if path is None else f"sqlite:///{path}"
    return command.run(*arguments, database_url=url, program=program)


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in (TABLE, *statements):
            connection.execute(statement)
        connection.commit()
    return path


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file become larger, as if the disk were full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Stopped(sqlite3.Connection):
    """A connection while whose statements Ctrl-C is pressed."""

    def set_progress_handler(self, *_: object) -> None:
        super().set_progress_handler(partial(signal.raise_signal, signal.SIGINT), 1)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return make(
        tmp_path / "heroes.db",
        "CREATE INDEX names ON hero (name)",
        "INSERT INTO hero VALUES (1, 'Deadpond', 30, 'Dive Wilson'), (2, 'Zoë', NULL, '🦸')",
    )


# Help


def test_help_names_the_commands() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    assert {"serve", "check", "copy", "seed", "upgrade"} <= {*ended.stdout.split()}


def test_help_says_where_the_database_is_and_how_to_begin() -> None:
    page = " ".join(run("--help").stdout.split())
    assert "HERO_API_DATABASE_URL" in page
    assert "hero-api seed 1000, then hero-api serve" in page


def test_help_fills_the_lines_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert (
        "An error is one line on standard error, and a status that is not 0."
        in run("--help").stdout
    )


HELP = {
    "serve": "[default: $FORWARDED_ALLOW_IPS or 127.0.0.1]",
    "check": "Look for damage",
    "upgrade": "stop the service first",
    "backup": "A new file; SQLite's own form. [required]",
    "restore": "A backup; it is only read. [required]",
    "export": "A new file; - is the output. [required]",
    "import": "Pass over the lines that cannot be stored.",
    "copy": "Where they go; it may have no others. [required]",
    "seed": "The same number makes the same heroes. [default: 0]",
}


@pytest.mark.parametrize(("name", "said"), HELP.items(), ids=HELP.keys())
def test_each_command_has_help(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ended = run(name, "--help")
    assert ended.returncode == 0
    assert said in " ".join(ended.stdout.replace("│", " ").split())


def test_no_command_is_without_a_test_of_its_help() -> None:
    listed = re.findall(r"^│ (\w+) ", run("--help").stdout.partition("Commands")[2], re.MULTILINE)
    assert listed == [*HELP]


def test_help_opens_no_database(tmp_path: Path) -> None:
    run("serve", "--help", path=tmp_path / "heroes.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["serve", "--port", "70000"], ["serve", "--port", "x"]]
)
def test_what_is_no_command_ends_with_status_2_and_no_traceback(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["postgresql://me:secret@host/heroes"],
        ["serve", "postgresql://me:secret@host/heroes"],
        ["check", "postgresql://me:secret@host/heroes"],
        ["copy", "sqlite:///heroes.db", "postgresql://me:my", "secret", "word@host/heroes"],
        ["copy", "--secret", "sqlite:///heroes.db"],
        ["serve", "--port", "secret"],
        ["serve", "--port=secret"],
        ["serve", "--fd", str(2**64)],
    ],
)
def test_no_argument_that_is_wrong_is_repeated(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "help" in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["copy", "a"], ["seed", "x"], ["serve", "--port"], ["check", "x"]]
)
def test_what_does_not_fit_is_one_line_that_names_the_help(arguments: list[str]) -> None:
    ended = run(*arguments)
    [line] = ended.stderr.splitlines()
    assert line.startswith("hero-api: ")
    assert line.endswith(" --help`")
    assert ended.returncode == 2


def test_a_missing_argument_is_named() -> None:
    assert "TARGET_URL" in run("copy", "sqlite:///heroes.db").stderr


@pytest.mark.parametrize("ends", [("{}", "sqlite:///{}"), ("sqlite:///{}", "{}")])
def test_a_copy_prints_no_password_that_holds_an_ampersand(
    ends: tuple[str, str], sound: Path
) -> None:
    url = "postgresql://127.0.0.1:1/heroes?user=me&password=top&secret=1"
    ended = run("copy", *(end.format(sound if "sqlite" in end else url) for end in ends))
    [line] = ended.stderr.splitlines()
    assert "%26" in line
    assert "secret" not in line


# What is refused, with the file that it is about


@pytest.mark.parametrize(
    "arguments", [["upgrade"], ["seed", "1"], ["import", os.devnull], ["backup", "copy.db"]]
)
def test_no_command_lets_sqlite_delete_the_log_of_a_file_that_was_emptied(
    monkeypatch: pytest.MonkeyPatch, sound: Path, arguments: list[str]
) -> None:
    monkeypatch.chdir(sound.parent)
    monkeypatch.setattr(engine, "has_wal_reset_fault", lambda: True)
    left, log = sound.with_name("left.db"), sound.with_name("left.db-wal")
    with closing(sqlite3.connect(sound, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("DELETE FROM hero")
        shutil.copy(f"{sound}-wal", log)
    left.touch()
    content = log.read_bytes()
    ended = run(*arguments, path=left)
    assert f"{left} cannot be used: it is empty, and" in ended.stderr
    assert log.read_bytes() == content


@pytest.mark.parametrize("closed", ["lines", "database"])
def test_the_file_that_may_not_be_used_is_named(public: Path, closed: str) -> None:
    for name in ("lines", "database"):
        (public / name).mkdir()
        (public / name).chmod(0o755)
    lines = public / "lines" / "heroes.jsonl"
    lines.touch()
    path = make(public / "database" / "heroes.db")
    for closed_path in public.glob(f"{closed}/**"):
        closed_path.chmod(0o700 if os.getuid() == 0 else 0)
    ended = run("import", str(lines), path=path, program=("-c", UNPRIVILEGED))
    (public / closed).chmod(0o700)
    [line] = ended.stderr.splitlines()[-1:]
    assert "Permission denied" in line
    assert str(public / closed) in line


def test_a_file_that_may_not_be_read_is_not_said_to_be_unfit(public: Path) -> None:
    lines = public / "heroes.jsonl"
    lines.touch(mode=0o600 if os.getuid() == 0 else 0)
    ended = run("import", str(lines), path=public / "heroes.db", program=("-c", UNPRIVILEGED))
    assert ended.stderr == f"hero-api: {lines}: Permission denied\n"


# What a name may be, and what becomes of the output

NAME = "100%41 a?b #\udcff 'Zoë'"


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["upgrade"],
        ["seed", "1"],
        ["backup", NAME],
        ["restore", f"{NAME}.db"],
        ["export", NAME],
        ["import", f"{NAME}.jsonl"],
        ["copy", "sqlite:///database.db", "sqlite:///other.db"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_directory_and_a_file_may_have_any_name(
    monkeypatch: pytest.MonkeyPatch, sound: Path, arguments: list[str]
) -> None:
    directory = sound.with_name(NAME)
    directory.mkdir()
    shutil.copy(sound, directory / "database.db")
    shutil.copy(sound, directory / f"{NAME}.db")
    (directory / f"{NAME}.jsonl").write_text('{"name": "a", "secret_name": "b"}')
    monkeypatch.chdir(directory)
    ended = run(*arguments)
    assert ended.returncode == 0, ended.stderr
    names = {"database.db", "other.db", NAME, f"{NAME}.db", f"{NAME}.jsonl"}
    assert {path.name for path in directory.iterdir()} <= names
    assert {path.name for path in sound.parent.iterdir()} == {sound.name, NAME}


def test_a_name_that_the_output_cannot_say_is_no_error(
    monkeypatch: pytest.MonkeyPatch, sound: Path
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    file = str(sound.with_name(NAME))
    ended = run("export", file, path=sound, program=("-m", "hero_api"))
    assert (ended.returncode, ended.stdout.count("\n")) == (0, 1), ended.stderr


def test_work_that_is_done_is_no_failure_where_its_progress_cannot_be_written(sound: Path) -> None:
    environment = os.environ | {"HERO_API_DATABASE_URL": f"sqlite:///{sound}"}
    reading, writing = os.pipe()
    os.close(reading)
    for errors in (writing, os.open("/dev/full", os.O_WRONLY)):
        ended = subprocess.run(
            [sys.executable, "-m", "hero_api", "import", "-"],
            cwd=ROOT,
            env=environment,
            input='{"name": "a", "secret_name": "b"}',
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
            text=True,
        )
        os.close(errors)
        assert (ended.returncode, ended.stdout) == (0, "1 hero stored, 0 lines passed over\n")


def test_ctrl_c_is_no_traceback_while_the_command_is_imported() -> None:
    program = """
import sys
from hero_api.__main__ import main

class Stopped:
    @staticmethod
    def find_spec(name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Stopped)
main()
"""
    ended = command.run("--version", program=("-c", program), is_forked=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_an_output_that_is_full_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "hero_api", "--version"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    [line] = ended.stderr.splitlines()
    assert "No space left" in line
    assert ended.returncode == 1


# hero-api check


def test_a_sound_file_is_said_to_be_sound(sound: Path) -> None:
    ended = run("check", path=sound)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{sound} is sound\n"


def test_a_damaged_file_is_a_line_for_each_problem_and_status_1(sound: Path) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        connection.execute("INSERT INTO hero VALUES (3, x'00', 1, 'a'), (4, 'b', 'old', 'b')")
        connection.commit()
    ended = run("check", path=sound)
    assert ended.returncode == 1
    assert len(ended.stdout.splitlines()) == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith("hero-api: ")
    assert "problems: 2" in line


def test_a_check_leaves_the_file_and_its_directory_as_they_are(tmp_path: Path) -> None:
    path = make(tmp_path / "heroes.db", "PRAGMA journal_mode=WAL")
    before = path.read_bytes()
    assert list(find_damage(path, heroes.table)) == []
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["heroes.db"]


def test_a_file_is_checked_while_it_is_served(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert run("check", path=server.file).returncode == 0


WRONG_ROWS = {
    "a BLOB for a name": "(3, x'ff', 1, 'a')",
    "a BLOB for a secret": "(3, 'a', 1, x'ff')",
    "text for an age": "(3, 'a', 'old', 'a')",
    "a fraction for an age": "(3, 'a', 1.5, 'a')",
    "an infinity for an age": "(3, 'a', 9e999, 'a')",
    "a name that is not UTF-8": "(3, CAST(x'ff' AS TEXT), 1, 'a')",
    "a secret that is not UTF-8": "(3, 'a', 1, CAST(x'c328' AS TEXT))",
    "an encoded surrogate": "(3, CAST(x'eda080' AS TEXT), 1, 'a')",
}


@pytest.mark.parametrize("row", WRONG_ROWS.values(), ids=WRONG_ROWS.keys())
def test_a_row_that_cannot_be_served_is_found_by_its_id(sound: Path, row: str) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        connection.execute(f"INSERT INTO hero VALUES {row}")
        connection.commit()
    [problem] = find_damage(sound, heroes.table)
    assert "hero 3 " in problem


OUTSIDE_THE_RULES = {
    "an id of zero": "(0, 'a', 1, 'a')",
    "an id below zero": "(-3, 'a', 1, 'a')",
    "an age below zero": "(3, 'a', -1, 'a')",
    "an empty name": "(3, '', 1, 'a')",
    "a long name": "(3, printf('%.10000c', 'a'), 1, 'a')",
    "a NUL in a name": "(3, CAST(x'610062' AS TEXT), 1, 'a')",
}


@pytest.mark.parametrize("row", OUTSIDE_THE_RULES.values(), ids=OUTSIDE_THE_RULES.keys())
def test_a_row_that_is_served_is_no_damage(sound: Path, row: str) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        connection.execute(f"INSERT INTO hero VALUES {row}")
        connection.commit()
    assert list(find_damage(sound, heroes.table)) == []


def test_an_index_that_does_not_fit_its_table_is_found(sound: Path) -> None:
    with closing(sqlite3.connect(sound)) as connection:
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'names'")
    content = bytearray(sound.read_bytes())
    page = slice(4_096 * (root - 1), 4_096 * root)
    content[page] = content[page].replace(b"Deadpond", b"Deadpool")
    sound.write_bytes(content)
    assert any("names" in problem for problem in find_damage(sound, heroes.table))


@pytest.mark.parametrize("content", [b"Dear diary", b"SQLite format 3\0" + b"?" * 5_000])
def test_what_is_no_database_is_damage_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "heroes.db"
    path.write_bytes(content)
    [problem] = find_damage(path, heroes.table)
    assert "not a database" in problem


def test_a_truncated_file_is_damage(sound: Path) -> None:
    sound.write_bytes(sound.read_bytes()[:-4_096])
    assert len(list(find_damage(sound, heroes.table))) >= 1


def test_each_problem_is_one_line_that_says_something(sound: Path) -> None:
    content = bytearray(sound.read_bytes())
    content[-4_096:] = b"\xff" * 4_096
    sound.write_bytes(content)
    problems = list(find_damage(sound, heroes.table))
    assert problems
    for problem in problems:
        assert len(problem.splitlines()) == 1
        assert not problem.startswith("***")


def assert_is_not_checked(path: Path, reason: str, *program: str) -> None:
    """`hero-api check` ends with one line that says what to do, and does not speak of damage."""
    ended = run("check", path=path, program=program)
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("hero-api: ")
    assert str(path) in line
    assert reason in line
    assert "backup" not in line


@pytest.mark.parametrize("name", ["missing.db", "missing/heroes.db", ".", "pipe"])
def test_what_is_no_file_is_one_line_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_is_not_checked(tmp_path / name, "There is no database")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("closed", ["heroes.db", "."], ids=["the file", "its directory"])
def test_a_file_that_may_not_be_read_is_one_line_that_says_what_to_do(
    public: Path, closed: str
) -> None:
    directory = public / "closed"
    directory.mkdir()
    path = make(directory / "heroes.db")
    (directory / closed).chmod(0o700 if os.getuid() == 0 else 0)
    assert_is_not_checked(path, "a user who may read it", "-c", UNPRIVILEGED)
    (directory / closed).chmod(0o700)


def test_a_copy_of_a_file_that_may_not_be_read_is_one_line(public: Path) -> None:
    path = make(public / "heroes.db")
    path.chmod(0o700 if os.getuid() == 0 else 0)
    urls = [f"sqlite:///{each}" for each in (path, public / "other.db")]
    [line] = run("copy", *urls, program=("-c", UNPRIVILEGED)).stderr.splitlines()
    assert "a user who may read it" in line


def test_a_file_without_heroes_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "heroes.db")) as connection:
        connection.execute("CREATE TABLE villain (id INTEGER PRIMARY KEY)")
    assert_is_not_checked(tmp_path / "heroes.db", "no such table: hero")


def test_a_file_beside_which_there_is_no_room_is_not_said_to_be_damaged(sound: Path) -> None:
    left = sound.with_name("left.db")
    with closing(sqlite3.connect(sound, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("DELETE FROM hero")
        for suffix in ("", "-wal"):  # as by a crash: SQLite is to make its third file
            shutil.copy(f"{sound}{suffix}", f"{left}{suffix}")
    with room_for(100):
        assert_is_not_checked(left, "I/O error")


def test_a_check_can_be_stopped(monkeypatch: pytest.MonkeyPatch, sound: Path) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Stopped))
    ended = run("check", path=sound)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr.strip()) == (130, "", "")


def test_a_file_that_another_keeps_locked_is_not_said_to_be_damaged(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hero_api.database.sqlite.file._PATIENCE", 0.1)
    with closing(sqlite3.connect(sound, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert_is_not_checked(sound, "locked")
