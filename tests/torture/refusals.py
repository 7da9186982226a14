"""What a database can be set up to refuse, beyond the service's own rules, and who asks for it."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hero_api.app import create_app
from hero_api.settings import Settings
from hero_api.testing import running
from tests.clusters import Cluster, connection_to

Request = tuple[str, str, object]
_ROLE = "clerk"
_CHOSEN = 1_000_000  # ids from here on are far from those that the database gives meanwhile


@dataclass(frozen=True)
class Refusal:
    """A database that refuses something, by what `statements` add to it.

    `bad` is the request number n that it refuses; without one there is only who asks for what it
    takes. `servers` write to it at once, as the role `user` of PostgreSQL.
    """

    name: str
    engine: Literal["sqlite", "postgresql"]
    statements: Sequence[str]
    bad: Callable[[int], Request] | None
    half: bool = False  # of all clients ask for what is refused
    deletes: bool = False  # those whose requests are good delete what they have created
    servers: int = 1
    user: str | None = None
    changes_names: bool = False  # what is stored is not quite what was sent

    async def prepare(self, place: Path, cluster: Cluster | None) -> Settings:
        """Make the database, in the directory `place` or in the cluster under its name.

        Returns the settings of a service on it.
        """
        if self.engine == "sqlite":
            settings = Settings(database_url=f"sqlite:///{place}/heroes.db")
            await self._set_up(settings)
            return settings
        assert cluster is not None
        with cluster.connect() as connection:
            [(count,)] = connection.execute("SELECT count(*) FROM pg_database").fetchall()
            connection.execute(f"CREATE DATABASE heroes_{count}")
        url = cluster.url(f"heroes_{count}")
        await self._set_up(Settings(database_url=url))
        return Settings(database_url=url.replace("postgres@", f"{self.user or 'postgres'}@"))

    async def _set_up(self, settings: Settings) -> None:
        async with running(create_app(settings)):
            pass  # the service has made its table
        with connection_to(settings) as connection:
            for statement in self.statements:
                connection.execute(statement)


def new_hero(number: int) -> dict[str, Any]:
    """Return a hero that no database here refuses, and that is equal to no other."""
    return {"name": f"hero {number}", "age": number % 100, "secret_name": f"secret {number}"}


def _bad_name(number: int) -> Request:
    return "POST", "/heroes/", {"name": f"bad {number}", "secret_name": f"refused {number}"}


def _long_name(number: int) -> Request:
    return "POST", "/heroes/", {"name": f"bad {number:99}", "secret_name": f"refused {number}"}


def _large_secret(number: int) -> Request:
    letters = random.Random(number).choices(string.ascii_letters + string.digits, k=10_000)
    return "POST", "/heroes/", {"name": f"bad {number}", "secret_name": "".join(letters)}


def _chosen_id(number: int) -> Request:
    hero = {"id": _CHOSEN + number, "name": f"bad {number}", "secret_name": f"refused {number}"}
    return "POST", "/heroes/", hero


def _taken_name(number: int) -> Request:
    return "POST", "/heroes/", {"name": "named", "secret_name": f"refused {number}"}


def _delete_named(_number: int) -> Request:
    return "DELETE", "/heroes/1", None


_NAMED = "INSERT INTO hero (name, secret_name) VALUES ('named', '?')"
_MISSIONS = (
    _NAMED,
    "CREATE TABLE missions (hero_id bigint REFERENCES hero (id) DEFERRABLE INITIALLY DEFERRED)",
    "INSERT INTO missions SELECT id FROM hero",
)
_WITH_CHECK = (
    "DROP TABLE hero",
    """
    CREATE TABLE hero (
        id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name VARCHAR NOT NULL, age INTEGER,
        secret_name VARCHAR NOT NULL, CHECK (name NOT LIKE 'bad%')
    )
    """,
    "CREATE INDEX ix_hero_name ON hero (name)",
    "CREATE INDEX ix_hero_age ON hero (age)",
)
_LEAST_PRIVILEGE = (
    f"""
    DO $$ BEGIN CREATE ROLE {_ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$
    """,
    f"GRANT SELECT, INSERT, UPDATE, DELETE ON hero TO {_ROLE}",
    f"GRANT USAGE, SELECT ON SEQUENCE hero_id_seq TO {_ROLE}",
)
_SERIALIZABLE = """
    DO $$ BEGIN EXECUTE format(
        'ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()
    ); END $$
"""
# As FastAPI's tutorial makes the table on PostgreSQL: its ids have 32 bits.
NARROW_IDS = (
    "DROP TABLE hero",
    """
    CREATE TABLE hero (
        id serial PRIMARY KEY, name varchar NOT NULL, age integer, secret_name varchar NOT NULL
    )
    """,
)
WIDE_IDS = "ALTER TABLE hero ALTER COLUMN id TYPE bigint"
TRIED = "SELECT nextval('tried')"  # how often the database was asked for what returns nothing


def _sqlite_trigger(action: str) -> Sequence[str]:
    return [
        f"""
        CREATE TRIGGER refusing BEFORE INSERT ON hero WHEN NEW.name LIKE 'bad%'
        BEGIN SELECT {action}; END
        """
    ]


def _function(body: str) -> str:
    return (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body} RETURN NEW; END $$"
    )


def _postgresql_trigger(body: str, when: str = "BEFORE INSERT") -> Sequence[str]:
    kind, deferred = "TRIGGER", ""
    if when == "AT COMMIT":
        kind, when, deferred = "CONSTRAINT TRIGGER", "AFTER INSERT", "DEFERRABLE INITIALLY DEFERRED"
    return [
        _function(body),
        f"CREATE {kind} refusing {when} ON hero {deferred} FOR EACH ROW EXECUTE FUNCTION refuse()",
    ]


_RAISE = "IF NEW.name LIKE 'bad%' THEN RAISE EXCEPTION 'no bad heroes'; END IF;"
_SKIP = "IF NEW.name LIKE 'bad%' THEN PERFORM nextval('tried'); RETURN NULL; END IF;"
_TRIM = "NEW.name := upper(NEW.name);"
_RENAME = "UPDATE hero SET name = upper(name) WHERE id = NEW.id;"

SKIPPED = Refusal(
    "a trigger that returns NULL",
    "postgresql",
    ["CREATE SEQUENCE tried", *_postgresql_trigger(_SKIP)],
    _bad_name,
)
SERIALIZABLE = Refusal(
    "serializable by default, two servers",
    "postgresql",
    [_SERIALIZABLE],
    None,
    deletes=True,
    servers=2,
)
REFUSALS = [
    Refusal("a run-time error", "sqlite", _sqlite_trigger("json('{')"), _bad_name),
    Refusal("an overflow", "sqlite", _sqlite_trigger("abs(-9223372036854775808)"), _bad_name),
    Refusal("RAISE(ABORT)", "sqlite", _sqlite_trigger("RAISE(ABORT, 'no')"), _bad_name),
    Refusal("RAISE(ROLLBACK)", "sqlite", _sqlite_trigger("RAISE(ROLLBACK, 'no')"), _bad_name),
    Refusal("RAISE(FAIL)", "sqlite", _sqlite_trigger("RAISE(FAIL, 'no')"), _bad_name),
    Refusal("RAISE(IGNORE)", "sqlite", _sqlite_trigger("RAISE(IGNORE)"), _bad_name),
    Refusal("a CHECK", "sqlite", _WITH_CHECK, _bad_name),
    Refusal(
        "a UNIQUE index",
        "sqlite",
        [_NAMED, "CREATE UNIQUE INDEX one_name ON hero (name)"],
        _taken_name,
    ),
    Refusal("a deferred foreign key", "sqlite", _MISSIONS, _delete_named, deletes=True),
    Refusal(
        "a run-time error, half are bad",
        "sqlite",
        _sqlite_trigger("json('{')"),
        _bad_name,
        half=True,
    ),
    Refusal(
        "a trigger that renames after the insert",
        "sqlite",
        [f"CREATE TRIGGER renaming AFTER INSERT ON hero BEGIN {_RENAME} END"],
        None,
        changes_names=True,
    ),
    Refusal("a trigger that raises", "postgresql", _postgresql_trigger(_RAISE), _bad_name),
    Refusal(
        "a row too large for an index",
        "postgresql",
        ["CREATE INDEX ix_secret ON hero (secret_name)"],
        _large_secret,
    ),
    Refusal(
        "a column that is too short",
        "postgresql",
        ["ALTER TABLE hero ALTER COLUMN name TYPE varchar(50)"],
        _long_name,
    ),
    Refusal(
        "a trigger that raises at COMMIT",
        "postgresql",
        _postgresql_trigger(_RAISE, "AT COMMIT"),
        _bad_name,
    ),
    Refusal("a deferred foreign key", "postgresql", _MISSIONS, _delete_named, deletes=True),
    Refusal(
        "a sequence that may not be set", "postgresql", _LEAST_PRIVILEGE, _chosen_id, user=_ROLE
    ),
    Refusal(
        "a CHECK",
        "postgresql",
        ["ALTER TABLE hero ADD CONSTRAINT no_bad CHECK (name NOT LIKE 'bad%')"],
        _bad_name,
    ),
    SKIPPED,
    Refusal(
        "a trigger that raises, half are bad",
        "postgresql",
        _postgresql_trigger(_RAISE),
        _bad_name,
        half=True,
    ),
    Refusal(
        "a trigger that renames before the insert",
        "postgresql",
        _postgresql_trigger(_TRIM),
        None,
        changes_names=True,
    ),
    Refusal(
        "a trigger that renames after the insert",
        "postgresql",
        _postgresql_trigger(_RENAME, "AFTER INSERT"),
        None,
        changes_names=True,
    ),
    SERIALIZABLE,
]
