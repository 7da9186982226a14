import logging
import re
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy.ext.asyncio import create_async_engine

from hero_api.database.urls import shown
from hero_api.errors import StartError
from hero_api.settings import Settings

from .command import run

GIVEN = [
    ("DATABASE_URL", "sqlite+aiosqlite:///a.db", "sqlite+aiosqlite:///a.db"),
    ("SYNCHRONOUS", "NORMAL", "NORMAL"),
    ("BUSY_TIMEOUT", "0.5", 0.5),
    ("READ_CONNECTIONS", "2", 2),
    ("REQUEST_TIMEOUT", "3", 3.0),
    ("MAX_BODY_SIZE", "4096", 4096),
    ("MAX_LINES", "50", 50),
    ("MAX_LINES_SIZE", "4096", 4096),
    ("CLIENT_TIMEOUT", "2.5", 2.5),
    ("TOKEN", "a token of the test", SecretStr("a token of the test")),
    ("GUARD", "writes", "writes"),
    ("IDEMPOTENCY_HOURS", "0.5", 0.5),
    ("TELEMETRY", "true", True),
    ("ROOT_PATH", "/api", "/api"),
    ("CORS_ORIGINS", '["https://heroes.example"]', ["https://heroes.example"]),
]
BAD = [
    ("DATABASE_URL", ""),
    ("DATABASE_URL", "heroes.db"),
    ("DATABASE_URL", "mysql://localhost/heroes"),
    ("DATABASE_URL", "sqlite:///:memory:"),
    ("DATABASE_URL", "sqlite://host/heroes.db"),
    ("DATABASE_URL", "sqlite:///heroes.db?mode=ro"),
    ("DATABASE_URL", "sqlite:///heroes.db?timeout=soon"),
    ("DATABASE_URL", "sqlite:///what?.db"),
    ("DATABASE_URL", "sqlite:///heroes.db?"),
    ("DATABASE_URL", "sqlite:///caf%E9.db"),
    ("DATABASE_URL", "sqlite:///heroes%00.db"),
    ("DATABASE_URL", "sqlite:///caf\udce9.db"),
    ("DATABASE_URL", "sqlite://me:secret@/heroes.db"),
    ("DATABASE_URL", "postgresql://host:port/heroes"),
    ("DATABASE_URL", "postgresql+asyncpg://host/heroes"),
    ("DATABASE_URL", "postgresql://host/heroes%00"),
    ("DATABASE_URL", "postgresql://me:%E9@host/heroes"),
    ("DATABASE_URL", "postgresql://m\udce9@host/heroes"),
    ("DATABASE_URL", "postgresql:///heroes?host=a&port=x"),
    ("DATABASE_URL", "postgresql:///heroes?host=a,b&port=1"),
    ("DATABASE_URL", "postgresql:///heroes?host=a&port=1&port=2"),
    # What SQLAlchemy or the driver take, and libpq does not.
    ("DATABASE_URL", "postgresql://host/heroes?plugin=x"),
    ("DATABASE_URL", "postgresql://host/heroes?async_creator_fn=x"),
    ("DATABASE_URL", "postgresql://host/heroes?cls=x"),
    ("DATABASE_URL", "postgresql://host/heroes?prepare_threshold=x"),
    ("READ_DATABASE_URL", "sqlite:///heroes.db"),
    ("READ_DATABASE_URL", "postgresql://host/heroes"),
    *(("ROOT_PATH", path) for path in ("api", "/api/", "//api", "/a b", "/", "/api\n")),
    ("SYNCHRONOUS", "OFF"),
    ("SYNCHRONOUS", ""),
    ("BUSY_TIMEOUT", "-1"),
    ("BUSY_TIMEOUT", "nan"),
    ("BUSY_TIMEOUT", "soon"),
    ("READ_CONNECTIONS", "0"),
    ("READ_CONNECTIONS", "1.5"),
    ("REQUEST_TIMEOUT", "0"),
    ("REQUEST_TIMEOUT", "inf"),
    ("MAX_BODY_SIZE", "1"),
    ("MAX_BODY_SIZE", "256 KiB"),
    ("MAX_LINES", "0"),
    ("MAX_LINES_SIZE", "1"),
    ("CLIENT_TIMEOUT", "0"),
    ("IDEMPOTENCY_HOURS", "0"),
    ("TOKEN", "short"),
    ("TOKEN", " " * 20),
    ("TOKEN", "a token of the test\n"),
    ("GUARD", "reads"),
    ("TELEMETRY", "maybe"),
    ("CORS_ORIGINS", '["https://heroes.example/"]'),
    ("CORS_ORIGINS", '["heroes.example"]'),
    ("CORS_ORIGINS", "https://heroes.example"),
]


# The environment


@pytest.mark.parametrize(("name", "text", "value"), GIVEN, ids=[name for name, *_ in GIVEN])
def test_a_setting_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"HERO_API_{name}", text)
    assert getattr(Settings.from_environment(), name.lower()) == value


@pytest.mark.parametrize("query", ["user=u&password=secret", "password=secret&user=u&sslmode=off"])
def test_a_password_among_the_parameters_is_hidden(query: str) -> None:
    url = Settings(database_url=f"postgresql://host/heroes?{query}").url
    assert (url.username, url.password) == ("u", "secret")
    assert "secret" not in str(url)


def test_the_database_to_read_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_API_DATABASE_URL", "postgresql://primary/heroes")
    monkeypatch.setenv("HERO_API_READ_DATABASE_URL", "postgresql://standby/heroes")
    settings = Settings.from_environment()
    assert (settings.url.host, settings.read_url.host) == ("primary", "standby")


def test_every_setting_has_a_variable_and_a_test_that_reads_it() -> None:
    names = [name for name, *_ in GIVEN] + ["READ_DATABASE_URL"]
    assert sorted(Settings.variables()) == sorted(f"HERO_API_{name}" for name in names)


def test_the_defaults_keep_heroes_durably_in_a_file_of_the_working_directory() -> None:
    settings = Settings.from_environment()
    assert settings.database_url == "sqlite+aiosqlite:///database.db"
    assert settings.synchronous == "FULL"


@pytest.mark.parametrize(("name", "text"), BAD)
def test_a_bad_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"HERO_API_{name}", text)
    with pytest.raises(StartError, match=rf"\AHERO_API_{name} .+\Z") as caught:
        Settings.from_environment()
    assert "\n" not in str(caught.value)


def test_two_bad_values_are_still_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_API_MAX_BODY_SIZE", "x\ny")
    monkeypatch.setenv("HERO_API_BUSY_TIMEOUT", "x\ny")
    with pytest.raises(StartError, match=r"\A.*BUSY_TIMEOUT.*MAX_BODY_SIZE.*\Z"):
        Settings.from_environment()


def test_an_unknown_variable_is_a_warning_that_names_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HERO_API_PORT", "tcp://10.0.0.1:8000")
    Settings.from_environment()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "HERO_API_PORT" in record.getMessage()


def test_known_and_foreign_variables_are_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HERO_API_SYNCHRONOUS", "FULL")
    monkeypatch.setenv("HERO_APIARY", "bees")
    Settings.from_environment()
    assert caplog.records == []


def test_an_argument_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_API_MAX_BODY_SIZE", "10000")
    assert Settings(max_body_size=20_000).max_body_size == 20_000


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(StartError, match="PORT"):
        Settings(port=8000)


def test_settings_cannot_be_changed(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_body_size = 1


# Database URLs


def driver_arguments(text: str) -> dict[str, object]:
    """Return what PostgreSQL's driver is given for a URL."""
    url = Settings(database_url=text).url
    _, arguments = create_async_engine(url).dialect.create_connect_args(url)
    return {name: value for name, value in arguments.items() if name != "context"}


@pytest.mark.parametrize("text", ["sqlite:///heroes.db", "sqlite+aiosqlite:///heroes.db"])
def test_a_url_as_people_write_it_gets_its_async_driver(text: str) -> None:
    settings = Settings(database_url=text)
    assert settings.url.drivername == "sqlite+aiosqlite"
    assert settings.url.database == "heroes.db"


def test_a_database_of_postgresql_is_no_path_to_a_file() -> None:
    with pytest.raises(ValueError, match="no file"):
        _ = Settings(database_url="postgresql://host/heroes").path


@pytest.mark.parametrize("text", ["postgresql://host/heroes", "postgresql+psycopg://host/heroes"])
def test_a_url_of_postgresql_gets_its_driver(text: str) -> None:
    settings = Settings(database_url=text)
    assert settings.is_postgresql
    assert settings.database_url == "postgresql+psycopg://host/heroes"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:secret@a:1,b:2/heroes?target_session_attrs=read-write",
        "postgresql://me:secret@/heroes?host=a:1,b:2&target_session_attrs=read-write",
        "postgresql://me:secret@/heroes?host=a:1&host=b:2&target_session_attrs=read-write",
        "postgresql://me:secret@/heroes?host=a,b&port=1,2&target_session_attrs=read-write",
    ],
)
def test_several_hosts_may_be_written_as_libpq_or_sqlalchemy_has_them(text: str) -> None:
    assert driver_arguments(text) == {
        "user": "me",
        "password": "secret",
        "dbname": "heroes",
        "host": "a,b",
        "port": "1,2",
        "target_session_attrs": "read-write",
    }


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("postgresql://[::1]:1,b/heroes", "::1,b", "1,"),
        ("postgresql://a,b", "a,b", ","),
        ("postgresql:///heroes?host=/run/postgresql", "/run/postgresql", None),
        ("postgresql://a:1/heroes", "a", 1),
    ],
)
def test_hosts_without_ports_sockets_and_addresses_are_kept(
    text: str, host: str, port: object
) -> None:
    given = driver_arguments(text)
    assert (given["host"], given.get("port")) == (host, port)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("postgresql:///heroes?host=127.0.0.1,::1&port=5998,5999", "127.0.0.1,::1", "5998,5999"),
        ("postgresql:///heroes?host=::1,127.0.0.1&port=5998,5999", "::1,127.0.0.1", "5998,5999"),
        ("postgresql:///heroes?host=::1&port=5999", "::1", "5999"),
        ("postgresql:///heroes?host=::1", "::1", None),
        ("postgresql:///heroes?host=a&host=::1", "a,::1", ","),
        ("postgresql:///heroes?host=::1,b:2", "::1,b", ",2"),
        ("postgresql:///heroes?host=a:1,b&port=7,8", "a:1,b", "7,8"),
    ],
)
def test_no_host_among_the_parameters_loses_its_port(text: str, host: str, port: object) -> None:
    given = driver_arguments(text)
    assert (given["host"], given.get("port")) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "postgres://me@host/heroes",
        "POSTGRES://me@host/heroes",
        "PostgreSQL://me@host/heroes",
        " postgresql://me@host/heroes\n",
    ],
)
def test_a_url_of_postgresql_is_taken_as_people_write_it(text: str) -> None:
    assert driver_arguments(text) == {"user": "me", "host": "host", "dbname": "heroes"}


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("postgresql://me@%2Frun%2Fpostgresql/heroes", {}),
        ("postgresql://me@%2Frun%2Fpostgresql:5433/heroes", {"port": "5433"}),
        ("postgresql://me@%2Frun%2Fpostgresql/heroes?sslmode=disable", {"sslmode": "disable"}),
    ],
)
def test_the_directory_of_a_socket_may_stand_where_libpq_has_it(
    text: str, more: dict[str, str]
) -> None:
    given = {"user": "me", "host": "/run/postgresql", "dbname": "heroes"}
    assert driver_arguments(text) == given | more


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///heroes.db\n", "heroes.db"),
        ("  sqlite:///heroes.db\r\n", "heroes.db"),
        ("sqlite:///my heroes.db ", "my heroes.db"),
        ("sqlite:///what%3F.db", "what?.db"),
        ("sqlite:///caf%C3%A9.db", "café.db"),
        ("sqlite:///100%.db", "100%.db"),
        ("sqlite:////srv/a@b,c:d/heroes.db", "/srv/a@b,c:d/heroes.db"),
    ],
)
def test_the_file_of_a_url_is_the_one_that_was_written(text: str, path: str) -> None:
    assert Settings(database_url=text).path == Path(path)


def test_a_question_mark_in_the_name_of_a_file_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(StartError, match="%3F"):
        Settings(database_url="sqlite:///what?.db")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:top@secret@host/heroes",
        "postgresql://me:top@secret,word@host/heroes",
        "postgresql://me:top@sec/ret@host/heroes",
        "postgresql://me:1@2/secret@host/heroes",
        "postgresql://me:1?top@secret@host/heroes",
        "postgresql://me:top@secret?y@host/heroes",
        "postgresql://me:top@secret?y=1@host/heroes",
        "postgresql://me:top@secret?ret&y=1@host/heroes",
        "postgresql://host:1/heroes?user=me&password=top@secret",
        "postgresql://host:1,host:2/heroes?password=top@secret",
        "postgresql://host?top@secret",
        "postgresql://me:secret/heroes",
        "postgresql://me:secret,top/heroes",
        "postgresql://me:secret",
        "mysql://me:top@secret/heroes",
        "secret",
    ],
)
def test_a_url_that_cannot_be_told_apart_is_refused_without_any_part_of_it(text: str) -> None:
    with pytest.raises(StartError) as caught:
        Settings(database_url=text)
    assert {"secret", "sec", "ret", "top"}.isdisjoint(re.findall(r"\w+", str(caught.value)))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@host/heroes?application_name=x@y&password=top@secret",
        "postgresql://host/heroes?user=me&application_name=x@y&password=top@secret",
        "postgresql://host/heroes?user=me&application_name=x@y&password=top%40secret",
        "postgresql:///heroes?host=host&user=me&application_name=x@y&password=top@secret",
    ],
)
def test_the_value_of_a_parameter_may_have_an_at(text: str) -> None:
    assert driver_arguments(text) == {
        "user": "me",
        "password": "top@secret",
        "host": "host",
        "dbname": "heroes",
        "application_name": "x@y",
    }


@pytest.mark.parametrize("password", ["top,secret", "top/secret", "top?secret", "top:secret#"])
def test_a_password_that_can_be_told_apart_need_not_be_encoded(password: str) -> None:
    given = driver_arguments(f"postgresql://me:{password}@host/heroes")
    assert (given["password"], given["host"]) == (password, "host")


def test_a_url_is_shown_without_what_only_its_driver_needs_to_know() -> None:
    url = Settings(
        database_url="postgresql://me:secret@a,b:1/heroes?sslpassword=secret&options=-csecret%3D1"
    ).url
    assert shown(url) == "postgresql+psycopg://me:***@/heroes?host=a%2Cb&port=%2C1"


def test_an_absolute_path_stays_one() -> None:
    assert Settings(database_url="sqlite:////var/heroes.db").url.database == "/var/heroes.db"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:heroes?mode=memory&cache=shared&uri=true",
    ],
)
def test_an_in_memory_database_is_refused_with_the_reason_and_a_way_out(text: str) -> None:
    with pytest.raises(StartError, match=r"in-memory.*each connection.*sqlite:///heroes\.db"):
        Settings(database_url=text)


# The command, where it cannot start


def start(*options: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run `hero-api serve` where it cannot start, and return how it ended."""
    return run("serve", "--port", "0", *options, database_url=url)


def assert_one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode not in {0, None}
    [line] = ended.stderr.splitlines()
    assert [word for word in words if word not in line] == []
    assert ended.stdout == ""


def test_a_bad_setting_stops_the_start_with_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HERO_API_SYNCHRONOUS", "OFF")
    ended = start(url=f"sqlite:///{tmp_path}/heroes.db")
    assert_one_line(ended, "HERO_API_SYNCHRONOUS")
    assert list(tmp_path.iterdir()) == []


def test_an_in_memory_database_stops_the_start_with_one_line() -> None:
    assert_one_line(start(url="sqlite://"), "HERO_API_DATABASE_URL", "in-memory")


def test_a_password_that_is_not_encoded_is_not_printed() -> None:
    ended = start(url="postgresql://me:top@secret,word@127.0.0.1:1/heroes")
    assert_one_line(ended, "HERO_API_DATABASE_URL", "%40")
    assert "secret" not in ended.stderr


def test_a_password_that_holds_an_ampersand_is_not_printed() -> None:
    ended = start(url="postgresql://127.0.0.1:1/heroes?user=me&password=top&secret=1")
    assert_one_line(ended, "%26")
    assert "secret" not in ended.stderr


def test_a_missing_directory_stops_the_start_with_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_one_line(start(url=f"sqlite:///{missing}/heroes.db"), str(missing))
    assert not missing.exists()


def test_a_directory_for_a_database_stops_the_start_with_one_line(tmp_path: Path) -> None:
    assert_one_line(start(url=f"sqlite:///{tmp_path}"), str(tmp_path), "directory")
    assert list(tmp_path.iterdir()) == []
    assert_one_line(run("upgrade", database_url="sqlite:////"), "database / ", "directory")


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary",
        b"\0" * 4096,
        b"SQLite format 3\0" + b"but not really " * 400,
        b"SQLite format 3\0",
    ],
)
def test_a_file_that_is_no_database_stops_the_start_with_one_line_and_stays_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "heroes.db"
    path.write_bytes(content)
    assert_one_line(start(url=f"sqlite:///{path}"), str(path))
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_another_table_of_that_name_stops_the_start_with_one_line_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "heroes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE hero (id INTEGER PRIMARY KEY, cape TEXT)")
    content = path.read_bytes()
    assert_one_line(start(url=f"sqlite:///{path}"), str(path))
    assert path.read_bytes() == content


def test_a_port_in_use_stops_the_start_with_one_line_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = start("--port", port, url=f"sqlite:///{tmp_path}/heroes.db")
    assert_one_line(ended, port)
