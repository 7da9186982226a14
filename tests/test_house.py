"""The rules that keep the source easy to change: imports only go down, modules stay small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hero_api.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hero_api"


def _name(path: Path) -> str:
    """Return the name of a module within the package, such as `batching.queue`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}
del MODULES[""]

# From the ground up: a module imports only from the floors below its own.
FLOORS = [
    {
        "server.acceptor",
        "server.buffered_transport",
        "server.admission",
        "errors",
        "etags",
        "histogram",
        "server.logs",
        "server.signals",
    },
    {"database", "database.sqlite", "database.postgresql", "commands", "server", "web"},
    {
        "lines",
        "server.listener",
        "database.urls",
        "database.pages",
        "database.verdicts",
        "database.columns",
    },
    {"database.keys"},
    {
        "settings",
        "models",
        "database.schema",
        "database.transfer",
        "commands.progress",
        "commands.new_file",
    },
    {"database.statements"},
    {"database.sqlite.file", "database.sqlite.statements"},
    {"database.postgresql.watchdog", "database.postgresql.statements"},
    {"database.sqlite.engine", "database.postgresql.engine"},
    {"database.sqlite.transfer", "database.postgresql.transfer", "database.sessions"},
    {"batching.batch"},
    {"batching.queue"},
    {"batching", "storage.rendering"},
    {"storage.rows"},
    {"storage.keyed", "storage.changes"},
    {"storage", "commands.check", "commands.upgrade", "commands.endpoints"},
    {"heroes", "commands.copy", "commands.seed", "commands.backup", "commands.json_lines"},
    {
        "web.openapi",
        "web.cors",
        "web.declared_query",
        "web.head",
        "web.opened_sessions",
        "web.prefix",
    },
    {"web.json_lines"},
    {
        "web.body_limit",
        "web.overload",
        "web.request_id",
        "dependencies",
        "server.http_protocol",
    },
    {
        "answers",
        "web.fast_route",
        "web.tagged_response",
        "web.request_counts",
        "web.exception_handlers",
        "web.access_log",
    },
    {
        "routes",
        "web.health",
        "web.metrics",
        "server.client_protocol",
        "server.workers",
    },
    {"app", "server.lifecycle", "server.forwarded_prefix"},
    {"main", "server.server", "testing", "client"},
    {"cli", "testing.fixtures"},
    {"__main__"},
]
FLOOR = {module: number for number, floor in enumerate(FLOORS) for module in floor}
WITHOUT_HTTP = sorted(set().union(*FLOORS[: FLOOR["web.prefix"]]))

IMPORT_ALL = """
import importlib, logging, os, signal, sys, threading

def state():
    return (
        os.listdir(), threading.active_count(), [*logging.getLogger().handlers],
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    )

before = state()
for name in sys.argv[1:]:
    importlib.import_module(f"hero_api.{name}")
assert state() == before, state()
"""


def imported(module: str) -> set[str]:
    """Return the full names that `module` imports, inside of functions too."""
    nodes = list(ast.walk(ast.parse(MODULES[module].read_text())))
    plain = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    return plain | {
        f"{node.module}.{a.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    }


def neighbours(module: str) -> set[str]:
    """Return the modules of the package that `module` imports."""
    names = {name.removeprefix("hero_api.") for name in imported(module)}
    # What is imported may be a module, or a name in one.
    return {own for name in names for own in (name, name.rpartition(".")[0]) if own in MODULES}


def test_each_module_is_on_one_floor() -> None:
    assert sorted(module for floor in FLOORS for module in floor) == sorted(MODULES.keys())


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_imports_only_go_down(module: str) -> None:
    below = set().union(*FLOORS[: FLOOR[module]])
    assert neighbours(module) <= below


@pytest.mark.parametrize("module", WITHOUT_HTTP)
def test_what_lies_below_the_handlers_knows_no_http(module: str) -> None:
    packages = {name.split(".")[0] for name in imported(module)}
    assert packages.isdisjoint({"fastapi", "starlette", "uvicorn", "httpx"})


def test_handlers_leave_sql_commits_and_errors_to_the_floors_below() -> None:
    nodes = list(ast.walk(ast.parse(MODULES["routes"].read_text())))
    called = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not any(isinstance(node, ast.Try) for node in nodes)
    assert called.isdisjoint({"execute", "commit", "rollback"})
    assert not any(name.startswith(("sqlalchemy", "sqlmodel")) for name in imported("routes"))


def test_importing_any_module_but_the_two_that_run_has_no_effect(tmp_path: Path) -> None:
    modules = sorted(FLOOR.keys() - {"main", "__main__"})
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, *modules],
        cwd=tmp_path,
        env=os.environ | {"HERO_API_DATABASE_URL": "nonsense", "HERO_API_UNKNOWN": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")


@pytest.mark.parametrize("variable", Settings.variables())
def test_the_readme_names_each_setting(variable: str) -> None:
    assert f"`{variable}`" in (ROOT / "README.md").read_text()
