"""The command `hero-api`."""

import sys
from typing import Annotated

import typer

from hero_api.errors import StartError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def hero_api() -> None:
    """Serve heroes over HTTP."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8000,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was begun."""
    # Imported here so that --help answers at once.
    from hero_api import server
    from hero_api.app import create_app
    from hero_api.settings import Settings

    settings = Settings.from_environment()
    server.serve(create_app(settings), settings, host, port)


def main() -> None:
    """Run the command; what stops the start is one line on standard error and status 1."""
    try:
        app()
    except StartError as error:
        sys.exit(f"hero-api: {error}")
