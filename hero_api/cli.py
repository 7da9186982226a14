"""The command `hero-api`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hero_api.errors import StartError

if TYPE_CHECKING:
    from hero_api.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def hero_api() -> None:
    """Serve heroes over HTTP."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="How many processes serve; several on PostgreSQL.")
    ] = 1,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish what was begun."""
    # Imported here so that --help answers at once.
    from hero_api.app import create_app
    from hero_api.server import server
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    server.serve(create_app(settings), settings, host, port, workers)


@app.command()
def check() -> None:
    """Look for damage in the database; the status is 1 where there is any."""
    from hero_api.commands.check import find_damage
    from hero_api.heroes import heroes
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    if settings.is_postgresql:
        raise StartError("The check is for SQLite files; PostgreSQL has pg_amcheck")
    problems = 0
    for problem in find_damage(settings.path, heroes.table):
        problems += 1
        typer.echo(problem)
    if problems:
        raise StartError(f"{settings.path} is damaged ({problems} problems): restore a backup")
    typer.echo(f"{settings.path} is sound")


@app.command()
def upgrade() -> None:
    """Add to the database's table what the service's own has got since; stop the service first."""
    from hero_api.commands.upgrade import upgrade as add
    from hero_api.database.keys import KEYS
    from hero_api.database.urls import shown
    from hero_api.heroes import heroes
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    lines = add(settings, [heroes.table, KEYS])
    for line in lines:
        typer.echo(line)
    typer.echo(f"{shown(settings.url)} has all that the service needs")


@app.command("copy")
def copy_heroes(
    source_url: Annotated[
        str, typer.Argument(metavar="SOURCE_URL", help="Where the heroes are; it is only read.")
    ],
    target_url: Annotated[
        str, typer.Argument(metavar="TARGET_URL", help="Where they go; it may have no others.")
    ],
) -> None:
    """Copy all heroes with their ids, such as from SQLite to PostgreSQL.

    Stop the service first: what it changes meanwhile makes the comparison at the end fail. A copy
    that was stopped, however that was, goes on when the same command is run again.
    """
    from hero_api.commands.copy import copy
    from hero_api.commands.progress import Progress
    from hero_api.heroes import heroes

    source, target = _settings(source_url, "SOURCE_URL"), _settings(target_url, "TARGET_URL")
    try:
        with Progress() as progress:
            copied = copy(source, target, heroes.table, progress)
    except KeyboardInterrupt:
        raise StartError("Stopped; to go on, run the same command again") from None
    typer.echo(
        f"{copied.copied:,} heroes copied; both have {copied.heroes:,}, each the same "
        f"(SHA-256 {copied.checksum})"
    )


def _settings(url: str, argument: str) -> "Settings":
    from hero_api.settings import Settings

    try:
        return Settings(database_url=url, read_database_url=None)
    except StartError as error:
        # The other settings are those of the environment.
        raise StartError(str(error).replace("HERO_API_DATABASE_URL", argument)) from None


def main() -> None:
    """Run the command; what stops the start is one line on standard error and status 1."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It was closed. No connection may take its place: the event loop would abort.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    try:
        sys.exit(app(standalone_mode=False))
    except StartError as error:
        # A file's name can have a line's end.
        sys.exit(" ".join(f"hero-api: {error}".splitlines()))
    except typer.TyperException as error:
        if sys.argv[1:] and error.message:
            error.message = "what was given does not fit, and is not repeated: it may be a password"
        error.show()  # type: ignore[attr-defined]
        sys.exit(error.exit_code)
