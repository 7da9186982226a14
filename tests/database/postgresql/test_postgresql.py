"""What is PostgreSQL's alone: its sequence, its table, its connections, its errors."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from hero_api.app import create_app
from hero_api.database.sessions import open_database
from hero_api.database.verdicts import judge
from hero_api.errors import (
    BrokenError,
    ContendedError,
    CorruptError,
    LateError,
    NoRoomError,
    RefusedError,
    RowLockedError,
    StartError,
    UnfitError,
)
from hero_api.heroes import heroes
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import Cluster, connection_to, insert, running_cluster
from tests.command import run

PROCESSES = 3  # that start together
SOON = 30.0  # seconds: far more than anything here takes
DEADPOND = {"name": "Deadpond", "secret_name": "Dive Wilson"}


@pytest.fixture
def on_postgresql(cluster: Cluster) -> Settings:
    return Settings(database_url=cluster.new_schema())


@pytest.fixture
async def client(on_postgresql: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with running(create_app(on_postgresql)) as client:
        yield client


async def create(client: httpx.AsyncClient, hero_id: int | None = None) -> int:
    response = await client.post("/heroes/", json=DEADPOND | {"id": hero_id})
    assert response.status_code == 200
    created: int = response.json()["id"]
    return created


# The sequence


async def test_an_id_that_was_chosen_below_the_last_one_given_changes_nothing(
    client: httpx.AsyncClient,
) -> None:
    assert [await create(client) for _ in range(3)] == [1, 2, 3]
    await client.delete("/heroes/2")
    assert await create(client, 2) == 2
    assert await create(client) == 4


async def test_a_chosen_id_that_is_taken_leaves_the_sequence_where_it_is(
    client: httpx.AsyncClient,
) -> None:
    assert await create(client, 7) == 7
    assert (await client.post("/heroes/", json=DEADPOND | {"id": 7})).status_code == 409
    assert await create(client) == 8


async def test_an_id_from_the_sequence_that_is_taken_is_drawn_again(
    client: httpx.AsyncClient, on_postgresql: Settings
) -> None:
    insert(on_postgresql, *((hero_id, "n", None, "s") for hero_id in (1, 2, 3, 5)))
    ids = await asyncio.gather(*(create(client) for _ in range(3)))
    assert sorted(ids) == [6, 7, 8]


async def test_the_sequence_catches_up_with_heroes_that_were_copied_in(
    client: httpx.AsyncClient, on_postgresql: Settings
) -> None:
    insert(on_postgresql, *((hero_id, "n", None, "s") for hero_id in (1000, 2**63 - 1)))
    async with running(create_app(on_postgresql)) as other:
        assert await create(other) == 1001
        assert await create(client) == 1002


async def test_chosen_and_given_ids_of_several_applications_never_meet(
    on_postgresql: Settings,
) -> None:
    async with (
        running(create_app(on_postgresql)) as one,
        running(create_app(on_postgresql)) as other,
    ):
        for start in range(10, 400, 40):
            both = [one, other] * 8
            chosen = [
                client.post("/heroes/", json=DEADPOND | {"id": start + n})
                for n, client in enumerate(both)
            ]
            free = [client.post("/heroes/", json=DEADPOND) for client in both]
            answers = await asyncio.gather(*chosen, *free)
            # A chosen id can be one that was given a moment before; a given one is never taken.
            assert {answer.status_code for answer in answers[: len(both)]} <= {200, 409}
            assert {answer.status_code for answer in answers[len(both) :]} == {200}
            created = [answer.json()["id"] for answer in answers if answer.status_code == 200]
            assert len(set(created)) == len(created)


async def test_a_deleted_heros_id_is_not_given_while_others_choose_theirs(
    on_postgresql: Settings,
) -> None:
    async with (
        running(create_app(on_postgresql)) as one,
        running(create_app(on_postgresql)) as other,
    ):

        async def choose() -> list[int]:
            ids = [await create(one, hero_id) for hero_id in range(100, 2000, 100)]
            for hero_id in ids:
                await one.delete(f"/heroes/{hero_id}")
            return ids

        async def take() -> list[int]:
            return [await create(other) for _ in range(100)]

        chosen, taken = await asyncio.gather(choose(), take())
        assert not {*chosen} & {*taken}


async def test_changes_of_several_applications_to_the_same_heroes_do_not_wait_in_a_circle(
    on_postgresql: Settings,
) -> None:
    async with (
        running(create_app(on_postgresql)) as one,
        running(create_app(on_postgresql)) as other,
    ):
        ids = [await create(one) for _ in range(20)]
        for age in range(20):
            patches = [
                client.patch(f"/heroes/{hero_id}", json={"age": age})
                for client, order in ((one, ids), (other, ids[::-1]))
                for hero_id in order
            ]
            assert {answer.status_code for answer in await asyncio.gather(*patches)} == {200}
        deletes = [
            client.delete(f"/heroes/{hero_id}")
            for client, order in ((one, ids), (other, ids[::-1]))
            for hero_id in order
        ]
        codes = [answer.status_code for answer in await asyncio.gather(*deletes)]
        assert sorted(codes) == [200] * 20 + [404] * 20


# The table


def columns(settings: Settings) -> list[tuple[str, str]]:
    query = """
        SELECT column_name, data_type FROM information_schema.columns
        WHERE table_name = 'hero' AND table_schema = current_schema ORDER BY ordinal_position
    """
    with connection_to(settings) as connection:
        return [*connection.execute(query).fetchall()]


async def test_the_table_has_the_columns_of_the_tutorial_and_ids_of_64_bits(
    client: httpx.AsyncClient, on_postgresql: Settings
) -> None:
    assert client is not None
    assert columns(on_postgresql) == [
        ("id", "bigint"),
        ("name", "character varying"),
        ("age", "integer"),
        ("secret_name", "character varying"),
    ]


OPEN = """
import asyncio, sys
from hero_api.database.sessions import open_database
from hero_api.heroes import heroes
from hero_api.settings import Settings

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with open_database(Settings(database_url=sys.argv[1]), {}, [heroes.table]):
        pass

asyncio.run(main())
"""


def test_processes_that_start_together_make_one_table(on_postgresql: Settings) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, on_postgresql.database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    errors = [process.communicate("\n", timeout=SOON)[1] for process in processes]
    assert errors == [""] * PROCESSES
    assert len(columns(on_postgresql)) == 4


async def refusal(settings: Settings) -> str:
    """Return the line that says why the database cannot be used."""
    with pytest.raises(StartError, match=r"\A[^\n]+\Z") as caught:
        async with open_database(settings, {}, [heroes.table]):
            pass
    return str(caught.value)


async def test_another_table_of_that_name_is_refused_and_stays(on_postgresql: Settings) -> None:
    with connection_to(on_postgresql) as connection:
        connection.execute("CREATE TABLE hero (id bigint, cape text)")
    assert "lacks name, age, secret_name" in await refusal(on_postgresql)
    assert [name for name, _ in columns(on_postgresql)] == ["id", "cape"]


async def test_a_table_without_a_sequence_is_refused(on_postgresql: Settings) -> None:
    with connection_to(on_postgresql) as connection:
        connection.execute(
            "CREATE TABLE hero (id bigint PRIMARY KEY, name text, age int, secret_name text)"
        )
    assert "bigserial" in await refusal(on_postgresql)


REST = "name text, age int, secret_name text"
REFUSED = {
    "no key": (f"id bigserial, {REST}", "primary key (id)"),
    "a key of two columns": (
        f"id bigserial, {REST}, at timestamptz DEFAULT now(), PRIMARY KEY (id, at)",
        "primary key (id)",
    ),
    "a key that is looked at late": (
        f"id bigserial PRIMARY KEY DEFERRABLE, {REST}",
        "primary key (id)",
    ),
    "an id that nobody may choose": (
        f"id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {REST}",
        "SET GENERATED BY DEFAULT",
    ),
    "another column that must be given": (
        f"id bigserial PRIMARY KEY, {REST}, cape text NOT NULL",
        "needs values for cape",
    ),
    "a column that cannot take its values": (
        "id bigserial PRIMARY KEY, name text, age text, secret_name text",
        "column age of type TEXT",
    ),
}


def make_table(settings: Settings, columns: str) -> None:
    with connection_to(settings) as connection:
        connection.execute(f"CREATE TABLE hero ({columns})")


async def test_another_column_of_a_type_that_nobody_knows_is_no_reason_to_complain(
    on_postgresql: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(on_postgresql, {}, [heroes.table]):
        pass
    with connection_to(on_postgresql) as connection:
        connection.execute("CREATE TYPE cape AS (colour text)")
        connection.execute("ALTER TABLE hero ADD COLUMN cape cape")
    async with running(create_app(on_postgresql)) as client:
        assert await create(client) == 1
    assert caplog.messages == []


@pytest.mark.parametrize(("columns", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_table_that_cannot_be_served_is_refused_with_the_reason(
    on_postgresql: Settings, columns: str, reason: str
) -> None:
    make_table(on_postgresql, columns)
    assert reason in await refusal(on_postgresql)


@pytest.mark.parametrize(
    "columns",
    [
        f"id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, {REST}",
        f"id bigserial UNIQUE, {REST}, at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (at, id)",
        f"id bigserial PRIMARY KEY, {REST}, cape text GENERATED ALWAYS AS (name) STORED",
        "id bigserial PRIMARY KEY, name varchar(500), age bigint, secret_name varchar(10000)",
    ],
)
async def test_a_table_that_holds_all_that_the_api_takes_is_served_without_a_warning(
    on_postgresql: Settings, columns: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_table(on_postgresql, columns)
    async with running(create_app(on_postgresql)) as client:
        assert (await create(client), await create(client, 7)) == (1, 7)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("columns", "warned"),
    [
        ("id serial, name text, age int, secret_name text", "id of the table hero is INTEGER"),
        (
            "id bigserial, name varchar(50), age int, secret_name text",
            "name of the table hero is VARCHAR(50)",
        ),
        ("id bigserial, name text, age smallint, secret_name text", "age of the table hero is SMA"),
    ],
)
async def test_a_column_that_cannot_hold_what_the_api_takes_is_a_warning_that_names_it(
    on_postgresql: Settings, columns: str, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_table(on_postgresql, f"{columns}, PRIMARY KEY (id)")
    async with open_database(on_postgresql, {}, [heroes.table]):
        [message] = caplog.messages
        assert warned in message


@pytest.fixture
async def restricted(on_postgresql: Settings, cluster: Cluster) -> AsyncIterator[Settings]:
    """Settings of a role that may do all with the heroes, and draw from their sequence."""
    async with open_database(on_postgresql, {}, [heroes.table]):
        pass
    schema = on_postgresql.url.normalized_query["options"][0].partition("search_path=")[2]
    with cluster.connect() as connection:
        connection.execute("CREATE ROLE restricted LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO restricted")
        connection.execute(f"GRANT ALL ON {schema}.hero TO restricted")
        connection.execute(f"GRANT USAGE ON SEQUENCE {schema}.hero_id_seq TO restricted")
        url = on_postgresql.url.set(username="restricted")
        yield Settings(database_url=url.render_as_string(hide_password=False))
        connection.execute("DROP OWNED BY restricted")
        connection.execute("DROP ROLE restricted")


async def test_a_sequence_that_the_role_may_use_and_not_set_is_a_warning(
    restricted: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(create_app(restricted)) as client:
        [message] = caplog.messages
        assert "hero_id_seq" in message
        assert "GRANT UPDATE" in message
        assert [await create(client) for _ in range(2)] == [1, 2]


async def test_a_sequence_that_is_behind_and_may_not_be_set_is_a_warning_that_says_so(
    restricted: Settings, on_postgresql: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    insert(on_postgresql, (1, "Deadpond", 1, "s"))
    async with open_database(restricted, {}, [heroes.table]):
        [message] = caplog.messages
        assert "behind" in message


async def test_a_database_of_another_encoding_is_refused(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        connection.execute("CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0")
    assert "UTF8" in await refusal(Settings(database_url=cluster.url("latin1")))


# Where it cannot start


def start(url: str, *program: str) -> subprocess.CompletedProcess[str]:
    return run("serve", "--port", "0", database_url=url, program=program)


def assert_one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert [word for word in words if word not in line] == []
    assert ended.stdout == ""


def test_a_server_that_is_not_there_is_one_line_without_the_password() -> None:
    ended = start("postgresql://me:secret@127.0.0.1:1/heroes")
    assert_one_line(ended, "127.0.0.1:1/heroes", "refused")
    assert "secret" not in ended.stderr


def test_hosts_of_which_none_is_there_are_one_line() -> None:
    assert_one_line(start("postgresql://127.0.0.1:1,127.0.0.1:2/heroes"), "refused")


def test_a_database_that_does_not_exist_is_one_line(cluster: Cluster) -> None:
    assert_one_line(start(cluster.url("nothing")), '"nothing" does not exist')


def test_an_option_that_libpq_does_not_know_is_one_line(cluster: Cluster) -> None:
    ended = start(cluster.url(nonsense="1"))
    assert_one_line(ended, "has a parameter that libpq does not know")
    assert "nonsense" not in ended.stderr  # it may be a part of a password


def test_an_option_that_has_no_such_value_is_one_line() -> None:
    ended = start("postgresql://127.0.0.1:1/heroes?keepalives=x")
    assert_one_line(ended, 'invalid integer value "x" for connection option "keepalives"')


def test_a_name_that_no_host_can_have_is_one_line() -> None:
    assert_one_line(start("postgresql://a..b/heroes"), "a..b")
    assert_one_line(run("upgrade", database_url="postgresql://a..b/heroes"), "a..b")


def test_a_missing_driver_is_one_line_that_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['psycopg'] = None; from hero_api.cli import main; main()"
    ended = start("postgresql://127.0.0.1/heroes", "-c", program)
    assert_one_line(ended, "pip install 'hero-api[postgresql]'")


def test_the_check_of_files_is_refused(cluster: Cluster) -> None:
    assert_one_line(run("check", database_url=cluster.url()), "pg_amcheck")


# Connections


async def test_connections_have_the_limits_of_the_settings(cluster: Cluster) -> None:
    settings = Settings(database_url=cluster.new_schema(), busy_timeout=2, request_timeout=3)
    async with open_database(settings, {}, [heroes.table]) as database:
        for session in (database.read_session(), database.write_session()):
            connection = await session.connection()
            shown = [
                (await connection.exec_driver_sql(f"SHOW {name}")).scalar()
                for name in ("lock_timeout", "statement_timeout", "client_encoding", "jit")
            ]
            assert shown == ["2s", "3s", "UTF8", "off"]
            await session.close()


async def test_a_session_that_reads_cannot_write(on_postgresql: Settings) -> None:
    async with (
        open_database(on_postgresql, {}, [heroes.table]) as database,
        database.read_session() as session,
    ):
        connection = await session.connection()
        with pytest.raises(Exception, match="read-only transaction"):
            await connection.exec_driver_sql("DELETE FROM hero")


async def test_a_lock_that_another_holds_is_503_after_its_time(cluster: Cluster) -> None:
    settings = Settings(database_url=cluster.new_schema(), busy_timeout=0.1)
    async with running(create_app(settings)) as client:
        await create(client)
        with connection_to(settings) as other, other.transaction():
            other.execute("LOCK TABLE hero")
            response = await client.patch("/heroes/1", json={"age": 1})
        assert response.status_code == 503
        assert "lock" in response.json()["detail"]
        assert response.headers["Retry-After"] == "1"
        assert (await client.patch("/heroes/1", json={"age": 2})).json()["age"] == 2


async def test_connections_that_the_server_ended_are_replaced_unseen(
    client: httpx.AsyncClient, cluster: Cluster
) -> None:
    await create(client)
    assert (await client.get("/heroes/1")).status_code == 200
    with cluster.connect() as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'hero-api'"
        )
    assert (await client.get("/heroes/1")).status_code == 200
    assert await create(client) == 2


def end_what_waits(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """End the connection of the service that waits for a lock, as soon as there is one."""
    query = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'hero-api' AND wait_event_type = 'Lock'
    """
    deadline = time.monotonic() + SOON
    while connection.execute(query).fetchone() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_connection_that_ends_under_a_batch_is_503_and_replaced(
    cluster: Cluster,
) -> None:
    settings = Settings(database_url=cluster.new_schema())
    async with running(create_app(settings)) as client:
        await create(client)
        with connection_to(settings) as other, other.transaction():
            other.execute("LOCK TABLE hero")
            pending = asyncio.create_task(client.patch("/heroes/1", json={"age": 1}))
            await asyncio.to_thread(end_what_waits, other)
            response = await asyncio.wait_for(pending, SOON)
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        assert (await client.patch("/heroes/1", json={"age": 2})).json()["age"] == 2


async def test_the_service_goes_on_when_the_server_was_away() -> None:
    with running_cluster() as cluster:
        async with running(create_app(Settings(database_url=cluster.url()))) as client:
            assert await create(client) == 1
            cluster.stop()
            away = [await client.get("/heroes/1"), await client.post("/heroes/", json=DEADPOND)]
            assert [answer.status_code for answer in away] == [503, 503]
            assert (await client.get("/readyz")).status_code == 503
            cluster.start()
            assert (await client.get("/heroes/1")).status_code == 200
            assert await create(client) > 1
            assert (await client.get("/readyz")).status_code == 200


async def test_of_several_hosts_the_one_that_takes_writes_is_found(cluster: Cluster) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:{cluster.port}"
    url = cluster.new_schema().replace(f"127.0.0.1:{cluster.port}", hosts)
    settings = Settings(database_url=f"{url}&target_session_attrs=read-write")
    async with running(create_app(settings)) as client:
        assert await create(client) == 1


# Reads from elsewhere


async def test_reads_go_where_the_setting_says(cluster: Cluster) -> None:
    schema = cluster.new_schema()
    with cluster.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN IN ROLE pg_read_all_data")
        elsewhere = str(make_url(schema).set(username="reader"))
        settings = Settings(database_url=schema, read_database_url=elsewhere)
        async with running(create_app(settings)) as client:
            assert await create(client) == 1
            assert (await client.get("/heroes/1")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            users = connection.execute(
                "SELECT query, usename FROM pg_stat_activity WHERE application_name = 'hero-api'"
            ).fetchall()
        assert {"reader", "postgres"} == {user for _, user in users}
        connection.execute("DROP ROLE reader")


async def test_the_service_is_not_ready_while_the_database_to_read_is_away(
    cluster: Cluster,
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/heroes"
    settings = Settings(database_url=cluster.new_schema(), read_database_url=nowhere)
    async with running(create_app(settings)) as client:
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/heroes/1")).status_code == 503
        assert await create(client) == 1


# Errors


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("08006", BrokenError),
        ("57P01", BrokenError),
        ("57P03", BrokenError),
        ("53300", BrokenError),
        ("25006", BrokenError),
        ("08003", BrokenError),
        ("53100", NoRoomError),
        ("2200H", NoRoomError),
        ("40001", ContendedError),
        ("40P01", ContendedError),
        ("55P03", RowLockedError),
        ("57014", LateError),
        ("23505", RefusedError),
        ("23514", RefusedError),
        ("22003", UnfitError),
        ("54000", UnfitError),
        ("P0001", RefusedError),
        ("42501", RefusedError),
        ("ZZ999", RefusedError),
        ("XX001", CorruptError),
        ("XX002", CorruptError),
    ],
)
def test_an_error_of_the_server_is_answered_by_its_state(
    state: str | None, expected: type[Exception]
) -> None:
    cause = psycopg.OperationalError("injected")
    cause.sqlstate = state
    assert type(judge(cause).told) is expected
    assert type(judge(OperationalError("SELECT 1", {}, cause)).told) is expected


def test_damage_is_told_with_the_tool_that_looks_for_it_in_postgresql() -> None:
    cause = psycopg.errors.DataCorrupted("injected")
    told = judge(OperationalError("SELECT 1", {}, cause)).told
    assert isinstance(told, CorruptError)
    assert "pg_amcheck" in told.detail
    assert "hero-api check" not in told.detail
