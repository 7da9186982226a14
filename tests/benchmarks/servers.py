"""The servers of the race: how each is started, and the paths under which it has its heroes."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import pocketbase, postgresql
from .process import Running

_PROGRAMS = Path(__file__).parent / "programs"
# As `hero-api serve` has them.
_UVICORN = (
    *("--loop", "uvloop", "--http", "httptools", "--ws", "none"),
    *("--no-access-log", "--no-proxy-headers", "--no-server-header"),
    *("--log-level", "warning", "--backlog", "2048", "--host", "127.0.0.1"),
)


@dataclass(frozen=True)
class Routes:
    """Where a server has its heroes; `%d` stands for an id, or for where a page starts."""

    collection: str = "/heroes/"
    hero: str = "/heroes/%d"
    first: str = "/heroes/"
    page: str = "/heroes/?offset=%d&limit=100"
    # The least and the greatest of the page's numbers, over 10,000 heroes.
    page_range: tuple[int, int] = (0, 9_900)


@dataclass(frozen=True)
class Server:
    """A server: `command` takes the port and the directory that has its database."""

    name: str
    description: str
    durability: str
    command: Callable[[int, Path], list[str]]
    environment: Callable[[Path], Mapping[str, str]] = lambda _directory: {}
    routes: Routes = Routes()
    database: str | None = "heroes.db"  # the SQLite file, in the directory; None: it has none
    table: str = "hero"
    hero_id: str = "%d"
    set_up: Callable[[Running, Path], None] = lambda _running, _directory: None
    on_postgresql: bool = False  # the database has the name of the directory
    processes: int = 1  # each has a core
    changes: bool = False  # it takes the PATCH and DELETE of the hero API, whose ids go up
    modules: Sequence[str] = field(default=())
    missing: Callable[[], str | None] = lambda: None

    def unavailable(self) -> str | None:
        """Return in one line why the server cannot take part, if so."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; see tests/benchmarks/requirements.txt"
        return self.missing()


def _hero_api(port: int, _directory: Path) -> list[str]:
    return [sys.executable, "-m", "hero_api", "serve", "--host", "127.0.0.1", "--port", str(port)]


def _two_workers(port: int, directory: Path) -> list[str]:
    return [*_hero_api(port, directory), "--workers", "2"]


def _hero_api_environment(synchronous: str | None) -> Callable[[Path], Mapping[str, str]]:
    chosen = {} if synchronous is None else {"HERO_API_SYNCHRONOUS": synchronous}
    return lambda directory: {
        "HERO_API_DATABASE_URL": f"sqlite:///{directory / 'heroes.db'}",
        **chosen,
    }


def _program(name: str, lifespan: str = "on") -> Callable[[int, Path], list[str]]:
    uvicorn = [sys.executable, "-m", "uvicorn", *_UVICORN, "--lifespan", lifespan]
    return lambda port, _directory: [
        *uvicorn,
        *("--port", str(port), "--app-dir", str(_PROGRAMS), f"{name}:app"),
    ]


def _program_environment(directory: Path) -> Mapping[str, str]:
    file = directory / "heroes.db"
    return {"DATABASE_FILE": str(file), "DATABASE_URL": f"sqlite+aiosqlite:///{file}"}


def _on_postgresql(variable: str, driver: str) -> Callable[[Path], Mapping[str, str]]:
    """Name the database; the rest is in libpq's own variables."""
    return lambda directory: {variable: f"{driver}:///{directory.name}"}


OURS = Server(
    name="hero-api",
    description="this project, as a user starts it",
    durability="FULL",
    command=_hero_api,
    environment=_hero_api_environment(None),
    changes=True,
)
OURS_NORMAL = Server(
    name="hero-api-normal",
    description="this project with HERO_API_SYNCHRONOUS=NORMAL",
    durability="NORMAL",
    command=_hero_api,
    environment=_hero_api_environment("NORMAL"),
    changes=True,
)
CEILING = Server(
    name="ceiling",
    description="the tutorial's signatures in FastAPI, answering constants",
    durability="none",
    command=_program("ceiling", lifespan="off"),
    database=None,
    changes=True,
)
STARLETTE = Server(
    name="starlette",
    description="bare Starlette, answering constants",
    durability="none",
    command=_program("starlette_app", lifespan="off"),
    database=None,
)
PORT = Server(
    name="async-port",
    description="the tutorial ported line by line to async SQLAlchemy",
    durability="FULL",
    command=_program("port"),
    environment=_program_environment,
)
TUTORIAL = Server(
    name="tutorial",
    description="FastAPI's SQL tutorial, synchronous",
    durability="FULL",
    command=_program("tutorial"),
    environment=_program_environment,
)
LITESTAR = Server(
    name="litestar",
    description="Litestar with advanced-alchemy on aiosqlite",
    durability="FULL",
    command=_program("litestar_app"),
    environment=_program_environment,
    modules=("litestar", "advanced_alchemy"),
)
POCKETBASE = Server(
    name="pocketbase",
    description="PocketBase",
    durability="NORMAL",
    command=pocketbase.command,
    routes=Routes(
        collection="/api/collections/heroes/records",
        hero="/api/collections/heroes/records/%015d",
        first="/api/collections/heroes/records?perPage=100&page=1&skipTotal=true",
        page="/api/collections/heroes/records?perPage=100&page=%d&skipTotal=true",
        page_range=(1, 100),
    ),
    database="data.db",
    table="heroes",
    hero_id="%015d",
    set_up=pocketbase.set_up,
    missing=pocketbase.missing,
)

ON_POSTGRESQL = Server(
    name="postgresql",
    description="this project on PostgreSQL, one process",
    durability="PostgreSQL's default",
    command=_hero_api,
    environment=_on_postgresql("HERO_API_DATABASE_URL", "postgresql"),
    on_postgresql=True,
    changes=True,
    missing=postgresql.missing,
)
TWO_ON_POSTGRESQL = replace(
    ON_POSTGRESQL,
    name="postgresql-2",
    description="this project on PostgreSQL, two processes, on both cores",
    command=_two_workers,
    processes=2,
)
ASYNCPG = Server(
    name="port-asyncpg",
    description="the async port on PostgreSQL, by asyncpg",
    durability="PostgreSQL's default",
    command=_program("port"),
    environment=_on_postgresql("DATABASE_URL", "postgresql+asyncpg"),
    on_postgresql=True,
    modules=("asyncpg",),
    missing=postgresql.missing,
)
PSYCOPG = replace(
    ASYNCPG,
    name="port-psycopg",
    description="the async port on PostgreSQL, by psycopg",
    environment=_on_postgresql("DATABASE_URL", "postgresql+psycopg"),
    modules=("psycopg",),
)

ENGINES = {
    "sqlite": (OURS, CEILING, STARLETTE, OURS_NORMAL, POCKETBASE, PORT, LITESTAR, TUTORIAL),
    "postgresql": (ON_POSTGRESQL, TWO_ON_POSTGRESQL, CEILING, ASYNCPG, PSYCOPG),
}
SERVERS = {server.name: server for engine in ENGINES.values() for server in engine}
