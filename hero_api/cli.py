"""The command `hero-api`."""

import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hero_api.errors import StartError

if TYPE_CHECKING:
    from hero_api.settings import Settings

# Typer's own look at a file, without readable=False, would not say why it cannot be used.
app = typer.Typer(
    rich_markup_mode="markdown",  # Rich's keeps the ends of lines, and drops what is in brackets
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="To begin with: `hero-api seed 1000`, then `hero-api serve`, and look at "
    "http://127.0.0.1:8000/docs. The settings are in the README.",
)


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        typer.echo(f"hero-api {version('hero-api')}")
        raise typer.Exit


@app.callback()
def hero_api(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Serve heroes over HTTP, and look after the database that they are in.

    HERO_API_DATABASE_URL names it: sqlite:///file.db, or postgresql://user:password@host/database.
    By default it is the file database.db of this directory.

    Each command but serve ends with a line that says what it did. An error is one line on standard
    error, and a status that is not 0.
    """


@app.command()
def serve(  # noqa: PLR0913 - each is an option
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
    uds: Annotated[
        Path | None,
        typer.Option(help="A path to listen on instead: a Unix domain socket.", readable=False),
    ] = None,
    fd: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**31 - 1, help="A socket that listens already: 3 is that of systemd."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="How many processes serve; several on PostgreSQL.")
    ] = 1,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(help="Serve HTTPS with this certificate (PEM).", readable=False),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(help="Its key, where the file of the certificate has none.", readable=False),
    ] = None,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(
            help="The proxies whose X-Forwarded-For and -Proto are believed, with commas between "
            "them; * for all.  [default: $FORWARDED_ALLOW_IPS or 127.0.0.1]"
        ),
    ] = None,
    forwarded_prefix: Annotated[
        bool,
        typer.Option(
            "--forwarded-prefix",
            help="Believe those proxies' X-Forwarded-Prefix too, which they must set themselves.",
        ),
    ] = False,
    root_path: Annotated[
        str | None, typer.Option(help="The path that a proxy takes off, such as /api.")
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request in a line.")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="How a line of the log looks.")
    ] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged at least.")
    ] = "warning",
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then finish what was begun."""
    # Imported here so that --help answers at once.
    from hero_api.app import create_app
    from hero_api.server import listener, logs, server
    from hero_api.settings import Settings

    if uds is not None and fd is not None:
        raise StartError("--uds and --fd are two places to listen: choose one")
    if access_log or log_format == "json" or log_level != "warning":
        logs.configure(log_format, log_level)
    application = create_app(Settings.from_environment(root_path=root_path))
    if fd is not None:
        listens = listener.listen_on_descriptor(fd)
    elif uds is not None:
        listens = listener.listen_on_path(uds)
    else:
        listens = listener.listen(host, port)
    server.serve(
        application,
        listens,
        workers=workers,
        access_log=access_log,
        forwarded_prefix=forwarded_prefix,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        forwarded_allow_ips=forwarded_allow_ips,
    )


@app.command()
def check() -> None:
    """Look for damage in the database; the status is 1 where there is any."""
    from hero_api.commands.check import find_damage
    from hero_api.heroes import heroes

    settings = _sqlite_settings("check", "pg_amcheck")
    problems = 0
    for problem in find_damage(settings.path, heroes.table):
        problems += 1
        typer.echo(problem)
    if problems:
        what = f"{settings.path} is damaged (problems: {problems})"
        raise StartError(f"{what}: stop the service, move it away, and restore a backup")
    typer.echo(f"{settings.path} is sound")


@app.command()
def upgrade() -> None:
    """Add to the database's table what the service's own has got since; stop the service first."""
    from hero_api.commands.upgrade import upgrade as add
    from hero_api.database.keys import KEYS
    from hero_api.heroes import heroes
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    with _stoppable("all was added or nothing; run the same command again"):
        lines = add(settings, [heroes.table, KEYS])
    for line in lines:
        typer.echo(line)
    typer.echo(f"{settings.database_name} has all that the service needs")


@app.command()
def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file; SQLite's own form.", readable=False)
    ],
) -> None:
    """Copy the database into a new file, also while the service writes, and check the copy."""
    from hero_api.commands.backup import backup as copy_into

    settings = _sqlite_settings("backup", "pg_dump and pg_basebackup")
    with _one_line(file, f"there is no {file}"):
        size = copy_into(settings, file)
    typer.echo(f"{file} is a copy of {settings.path}, sound and on the disk ({size:,} bytes)")


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A backup; it is only read.", readable=False)
    ],
) -> None:
    """Put a backup in the place of all that the database has, also while the service runs."""
    from hero_api.commands.backup import restore as put
    from hero_api.heroes import heroes

    settings = _sqlite_settings("restore", "pg_restore and psql")
    with _one_line(file, f"nothing was changed in {settings.path}"):
        put(settings, file, heroes.table)
    typer.echo(f"{settings.path} has what {file} has; ids that were given are not given again")


@app.command("export")
def export_heroes(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file; - is the output.", readable=False)
    ],
) -> None:
    """Write all heroes as JSON Lines, one a line, as the API answers them."""
    from hero_api.commands.json_lines import export_lines
    from hero_api.commands.new_file import new_file
    from hero_api.commands.progress import Progress
    from hero_api.heroes import heroes
    from hero_api.models import HeroPublic
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    is_output = str(file) == "-"
    if is_output and sys.__stdout__ is None:
        raise StartError("The output is closed; name a file")
    outcome = "not all was written" if is_output else f"there is no {file}"
    with _one_line(file, outcome), ExitStack() as stack:
        path = 1 if is_output else stack.enter_context(new_file(file))
        target = stack.enter_context(open(path, "wb", closefd=not is_output))
        progress = stack.enter_context(Progress())
        count = export_lines(settings, heroes, HeroPublic, target, progress)
    typer.echo(f"{_many(count, 'hero', 'heroes')} written to {file}", err=is_output)


@app.command("import")
def import_heroes(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON Lines; - is the input.", readable=False)
    ],
    *,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over the lines that cannot be stored.")
    ] = False,
) -> None:
    """Store a hero for each line, as POST would: all of the file, or nothing of it."""
    from hero_api.commands.json_lines import import_lines
    from hero_api.commands.progress import Progress
    from hero_api.heroes import heroes
    from hero_api.models import HeroCreate
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    is_input = str(file) == "-"
    if is_input and sys.__stdin__ is None:
        raise StartError("The input is closed; name a file")
    with _one_line(file, "nothing was stored"), ExitStack() as stack:
        source = stack.enter_context(open(0 if is_input else file, "rb", closefd=not is_input))
        progress = stack.enter_context(Progress())
        imported = import_lines(settings, heroes, HeroCreate, source, progress, skips_bad=skip_bad)
    stored = _many(imported.stored, "hero", "heroes")
    typer.echo(f"{stored} stored, {_many(imported.skipped, 'line', 'lines')} passed over")


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
    with _stoppable("to go on, run the same command again"), Progress() as progress:
        copied = copy(source, target, heroes.table, progress)
    typer.echo(
        f"{_many(copied.copied, 'hero', 'heroes')} copied; both have {copied.heroes:,}, each the "
        f"same (SHA-256 {copied.checksum})"
    )


@app.command()
def seed(
    count: Annotated[int, typer.Argument(metavar="N", min=0, help="How many heroes.")],
    number: Annotated[
        int, typer.Option("--seed", min=0, help="The same number makes the same heroes.")
    ] = 0,
    replace: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--replace", help="Delete all that are there; ids begin with 1 again.")
    ] = False,
) -> None:
    """Fill the database with made-up heroes, behind those that are there; stop the service first.

    Each 50,000 are a transaction: those that were stored stay when it is stopped.
    """
    from hero_api.commands.progress import Progress
    from hero_api.commands.seed import seed as fill
    from hero_api.heroes import heroes
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    rng = random.Random(number)  # noqa: S311 - the same number makes the same heroes
    with _stoppable("what was stored until then is there"), Progress() as progress:
        ids = fill(settings, heroes.table, count, progress, rng=rng, replace=replace)
    which = f", of the ids {ids[0]:,} to {ids[-1]:,}" if ids else ""
    stored = _many(count, "hero", "heroes")
    typer.echo(f"{stored} stored in {settings.database_name}{which} (--seed {number})")


def _many(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


@contextmanager
def _stoppable(outcome: str) -> Iterator[None]:
    """Say in one line what a command that was stopped has left."""
    try:
        yield
    except KeyboardInterrupt:
        raise StartError(f"Stopped; {outcome}") from None


@contextmanager
def _one_line(file: Path, outcome: str) -> Iterator[None]:
    """Say in one line what stopped a command that reads or writes a file."""
    try:
        with _stoppable(outcome):
            yield
    except OSError as error:
        # The database's file can be meant too.
        raise StartError(f"{error.filename or file}: {error.strerror or error}") from error


def _sqlite_settings(command: str, instead: str) -> "Settings":
    """Read the environment, which must name a SQLite file; PostgreSQL has programs `instead`."""
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    if settings.is_postgresql:
        raise StartError(f"The {command} is for SQLite files; PostgreSQL has {instead}")
    return settings


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
            # It is closed. If a connection took its number, the event loop would abort.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    if isinstance(sys.stdout, TextIOWrapper):
        # A file's name can be what the output cannot say. Standard error is like that by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(app(standalone_mode=False))
    except StartError as error:
        # A file's name can have a line's end.
        sys.exit(" ".join(f"hero-api: {error}".splitlines()))
    except OSError as error:
        # Such as of a full disk that the output goes to, which the exit would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(f"hero-api: {error}")
    except typer.TyperException as error:
        if not sys.argv[1:]:
            error.show()  # type: ignore[attr-defined]
        else:
            _say_what_does_not_fit(error)
        sys.exit(error.exit_code)


def _say_what_does_not_fit(error: typer.TyperException) -> None:
    if error.message:
        error.message = "what was given does not fit, and is not repeated: it may be a password"
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "hero-api"
    message = error.format_message().rstrip(".")
    typer.echo(f"hero-api: {message}; see `{command} --help`", err=True)
