"""How commands open the transfer endpoints of a database."""

import asyncio

from sqlalchemy import Table

from hero_api.database.postgresql.transfer import PostgreSQLEndpoint
from hero_api.database.sessions import open_database
from hero_api.database.sqlite.engine import check_alone
from hero_api.database.sqlite.transfer import SQLiteEndpoint
from hero_api.settings import Settings

TransferEndpoint = SQLiteEndpoint | PostgreSQLEndpoint


def open_to_read(settings: Settings, table: Table) -> TransferEndpoint:
    """Open a database that is there, and show it as it is now."""
    return _endpoint(settings)(settings, table, writes=False)


def open_to_write(settings: Settings, table: Table) -> TransferEndpoint:
    """Open a database, and make the table where it is not there, as the service does.

    Raises `StartError` where another process may not have the file open too, and has.
    """
    check_alone(settings)
    make_table(settings, table)
    return _endpoint(settings)(settings, table, writes=True)


def make_table(settings: Settings, table: Table) -> None:
    """Make the table where it is not there, as the service does when it starts."""

    async def start() -> None:
        async with open_database(settings, {}, [table]):
            pass

    asyncio.run(start())


def _endpoint(settings: Settings) -> type[TransferEndpoint]:
    return PostgreSQLEndpoint if settings.is_postgresql else SQLiteEndpoint
