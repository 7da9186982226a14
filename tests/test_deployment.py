"""No Docker engine is at hand in the tests: these read the files that one would."""

import http.server
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import httpx
import pytest
import typer
import yaml  # type: ignore[import-untyped] # uvicorn[standard] brings it, without its types
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # typing has one that Pydantic takes from 3.12 on

import hero_api.cli
from hero_api.app import create_app
from hero_api.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

Seconds = Annotated[str, Field(pattern=r"^\d+s$")]


class Part(BaseModel):
    """A part of the Compose Specification: of its keys, those that the file uses."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Healthcheck(Part):
    test: list[str]
    interval: Seconds
    timeout: Seconds
    start_period: Seconds
    retries: int


class Service(Part):
    build: Path = Field(strict=False)
    ports: list[Annotated[str, Field(pattern=r"^[\d.]+:\d+:\d+$")]]
    volumes: list[Annotated[str, Field(pattern=r"^[a-z]+:/[a-z]+$")]]
    read_only: bool
    tmpfs: list[str]
    cap_drop: list[str]
    security_opt: list[str]
    healthcheck: Healthcheck
    restart: Literal["no", "always", "on-failure", "unless-stopped"]
    init: bool
    stop_grace_period: Seconds


class Condition(Part):
    condition: Literal["service_started", "service_healthy"]


class PostgreSQLService(Service):
    """The service where it is on PostgreSQL."""

    profiles: list[str]
    command: list[str]
    environment: dict[str, str]
    volumes: list[str]
    depends_on: dict[str, Condition]


class Server(Part):
    """PostgreSQL itself."""

    image: Annotated[str, Field(pattern=r"^postgres:\d+$")]
    profiles: list[str]
    environment: dict[str, str]
    volumes: list[str]
    healthcheck: Healthcheck
    restart: Literal["unless-stopped"]
    stop_grace_period: Seconds


Services = TypedDict(
    "Services",
    {"hero-api": Service, "hero-api-postgresql": PostgreSQLService, "postgresql": Server},
)


class Compose(Part):
    services: Services
    volumes: dict[str, None]


def compose() -> Compose:
    return Compose.model_validate(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def service() -> Service:
    return compose().services["hero-api"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each as its word and the rest."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, rest in (line.split(maxsplit=1) for line in lines)]


def instruction(word: str) -> str:
    """Return what the one instruction `word` says."""
    [rest] = [rest for other, rest in instructions() if other == word]
    return rest


def environment() -> dict[str, str]:
    """Return the environment that the image sets."""
    return dict(pair.split("=", maxsplit=1) for pair in shlex.split(instruction("ENV")))


def command() -> list[str]:
    """Return the command that a container runs; JSON, or it would run in a shell."""
    return [*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))]


def options(command: list[str]) -> dict[str, object]:
    """Return what `hero-api serve` understands of the arguments of a command."""
    program = typer.main.get_command(hero_api.cli.app)
    assert isinstance(program, typer.core.TyperGroup)
    name, *arguments = command
    return program.commands[name].make_context(name, arguments).params


def health_command() -> list[str]:
    """Return the command of the image's healthcheck."""
    return [str(word) for word in json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])]


@contextmanager
def stub(status: int) -> Iterator[int]:
    """Serve `status` for /readyz and 404 for everything else; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check_health(port: int) -> int:
    """Run the healthcheck's script against `port`; return its exit status."""
    script = health_command()[-1].replace("8000", str(port))
    completed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], check=False, stderr=subprocess.DEVNULL
    )
    return completed.returncode


def test_the_compose_file_keeps_to_the_compose_specification() -> None:
    assert list(compose().services) == ["hero-api", "hero-api-postgresql", "postgresql"]


def test_the_image_is_built_where_the_dockerfile_is() -> None:
    assert (ROOT / service().build / "Dockerfile").is_file()


def test_the_image_runs_a_command_that_the_package_installs() -> None:
    assert command()[0] in PYPROJECT["project"]["scripts"]


def test_the_image_listens_on_every_address_of_the_port_it_exposes() -> None:
    _, *arguments = command()
    assert options(arguments)["host"] == "0.0.0.0"
    assert options(arguments)["port"] == int(instruction("EXPOSE"))


def test_the_port_is_published_to_this_machine_alone() -> None:
    port = instruction("EXPOSE")
    assert service().ports == [f"127.0.0.1:{port}:{port}"]


def test_sigterm_is_what_stops_a_container() -> None:
    assert "STOPSIGNAL" not in dict(instructions())


def test_a_signal_reaches_the_service_however_early_it_comes() -> None:
    assert service().init
    assert compose().services["hero-api-postgresql"].init


def test_a_container_is_not_killed_before_its_last_requests_have_their_deadline() -> None:
    grace = float(service().stop_grace_period.removesuffix("s"))
    assert grace >= 2 * Settings(database_url="sqlite:///heroes.db").request_timeout


def test_the_image_runs_as_a_user_who_is_not_root() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", instruction("USER"))


def test_the_settings_take_every_variable_that_the_image_sets() -> None:
    variables = {name for name in environment() if name.startswith(PREFIX)}
    assert variables
    assert variables <= set(Settings.variables())


def test_the_heroes_are_on_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_API_DATABASE_URL", environment()["HERO_API_DATABASE_URL"])
    database = PurePosixPath(Settings.from_environment().url.database or "")
    assert database.parent == PurePosixPath(instruction("VOLUME"))


def test_the_volume_is_made_for_the_user_before_it_is_declared() -> None:
    uid, gid = instruction("USER").split(":")
    path = instruction("VOLUME")
    made = ("RUN", f"install --directory --owner={uid} --group={gid} {path}")
    assert instructions().index(made) < instructions().index(("VOLUME", path))


def test_compose_keeps_the_heroes_on_a_named_volume() -> None:
    name, _ = compose().volumes
    assert service().volumes == [f"{name}:{instruction('VOLUME')}"]


def test_nothing_but_the_volume_and_tmp_can_be_written() -> None:
    assert service().read_only
    assert service().tmpfs == ["/tmp"]


def test_a_container_has_no_privileges_and_gets_none() -> None:
    assert service().cap_drop == ["ALL"]
    assert service().security_opt == ["no-new-privileges:true"]


def test_a_container_that_fails_is_started_again() -> None:
    assert service().restart == "unless-stopped"


def test_the_profile_adds_several_workers_on_postgresql_on_a_port_of_their_own() -> None:
    workers = compose().services["hero-api-postgresql"]
    understood = options(workers.command)
    assert workers.profiles == ["postgresql"]
    assert understood["host"] == "0.0.0.0"
    assert int(str(understood["workers"])) > 1
    assert workers.ports == [f"127.0.0.1:8001:{understood['port']}"]


def test_the_profile_differs_from_the_default_in_nothing_else() -> None:
    own = {"ports", "volumes"}
    workers = compose().services["hero-api-postgresql"]
    shared = Service.model_fields.keys() - own
    assert workers.model_dump(include=shared) == service().model_dump(include=shared)


def test_the_workers_of_the_profile_wait_for_the_database_that_their_url_names() -> None:
    services = compose().services
    workers, server = services["hero-api-postgresql"], services["postgresql"]
    text = workers.environment["HERO_API_DATABASE_URL"]
    url = Settings(database_url=text.replace("${HEROES_PASSWORD:-heroes}", "heroes")).url
    assert workers.environment.keys() <= set(Settings.variables())
    assert workers.depends_on[url.host or ""].condition == "service_healthy"
    assert server.environment == {
        "POSTGRES_USER": url.username,
        "POSTGRES_PASSWORD": "${HEROES_PASSWORD:-heroes}",
        "POSTGRES_DB": url.database,
    }


def test_the_database_of_the_profile_is_on_a_named_volume() -> None:
    _, name = compose().volumes
    server = compose().services["postgresql"]
    assert server.profiles == ["postgresql"]
    assert server.volumes == [f"{name}:/var/lib/postgresql/data"]


def test_the_image_has_the_driver_of_postgresql() -> None:
    installs = [rest for word, rest in instructions() if word == "RUN" and "install --no" in rest]
    [install] = installs
    assert "[postgresql]" in install
    assert "postgresql" in PYPROJECT["project"]["optional-dependencies"]


def test_compose_and_the_image_check_health_in_the_same_way() -> None:
    health = service().healthcheck
    assert health.test == ["CMD", *health_command()]
    assert instruction("HEALTHCHECK").startswith(
        f"--interval={health.interval} --timeout={health.timeout} "
        f"--start-period={health.start_period} --retries={health.retries} "
    )


def test_the_healthcheck_asks_the_port_that_the_image_exposes() -> None:
    assert f"('127.0.0.1', {instruction('EXPOSE')}, " in health_command()[-1]


def test_the_healthcheck_asks_a_path_that_the_service_has() -> None:
    app: FastAPI = create_app(Settings(database_url="sqlite:///heroes.db"))
    assert "/readyz" in app.openapi()["paths"]
    assert "'/readyz'" in health_command()[-1]


def test_the_healthcheck_passes_when_the_service_is_ready() -> None:
    with stub(200) as port:
        assert check_health(port) == 0


def test_the_healthcheck_fails_when_the_service_is_not_ready() -> None:
    with stub(503) as port:
        assert check_health(port) == 1


def test_the_healthcheck_fails_when_nothing_listens() -> None:
    with stub(200) as port:
        pass
    assert check_health(port) == 1


def test_both_stages_of_the_image_have_one_python_that_the_package_supports() -> None:
    images = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    [version] = [image.removeprefix("python:").removesuffix("-slim") for image in images]
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert [int(part) for part in version.split(".")] >= [int(part) for part in oldest.split(".")]


def test_the_build_is_sent_what_it_copies_and_nothing_else() -> None:
    copies = [rest.split() for word, rest in instructions() if word == "COPY"]
    copied = {name for words in copies if "--from=build" not in words for name in words[:-1]}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert copied == {line[1:] for line in ignore if line.startswith("!")}


def test_the_readme_says_how_to_start_it_with_compose() -> None:
    assert "docker compose up" in (ROOT / "README.md").read_text()


def test_the_entry_point_for_fastapi_is_the_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HERO_API_DATABASE_URL", f"sqlite:///{tmp_path}/heroes.db")
    module, _, name = PYPROJECT["tool"]["fastapi"]["entrypoint"].partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), FastAPI)


@pytest.mark.parametrize("mode", ["run", "dev"])
def test_the_command_of_fastapi_serves_it(mode: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fastapi", mode, "--host", "127.0.0.1", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"HERO_API_DATABASE_URL": f"sqlite:///{tmp_path}/heroes.db"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        # Development mode would wait for ever for a change that mends what does not start.
        deadline = threading.Timer(60, os.killpg, (process.pid, signal.SIGKILL))
        deadline.start()
        try:
            output = ""
            # The two lines come in either order; where one is missing, the output ends.
            while not ("startup complete" in output and "running on" in output):
                line = process.stdout.readline()
                assert line, output
                output += line
            [address] = re.findall(r"running on (http://\S+)", output)
            # In development mode the child process listens a little after it said so.
            transport = httpx.HTTPTransport(retries=5)
            with httpx.Client(transport=transport, trust_env=False) as client:
                assert client.get(f"{address}/readyz").status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            deadline.cancel()
