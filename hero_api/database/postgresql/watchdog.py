"""Watches an engine's connections to PostgreSQL: no server is waited for without end."""

import asyncio
import logging
import os
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

if TYPE_CHECKING:
    import psycopg

_GRACE = 0.5  # seconds that a batch has to notice that its connection was cut
_MADE = "hero_api.made"  # under this name an entry's `info` has when, by the loop's clock

logger = logging.getLogger("hero_api")


class _Use(NamedTuple):
    connection: DBAPIConnection
    since: float
    timer: asyncio.TimerHandle


class ConnectionWatchdog:
    """Cuts connections that are in use for more than `patience` seconds; replaces dead ones.

    A frozen host takes every byte and answers none. Whoever waits for it waits for ever, and to
    cancel would wait too: but where the socket is shut down, a wait ends as if the server had.
    """

    def __init__(self, engine: AsyncEngine, patience: float) -> None:
        self.patience = patience
        self._silent_since = 0.0
        self._in_use: dict[ConnectionPoolEntry, _Use] = {}
        self._is_idle = asyncio.Event()
        event.listen(engine.sync_engine, "do_connect", self._connect)
        event.listen(engine.sync_engine, "checkout", self._check_out)
        event.listen(engine.sync_engine, "checkin", lambda _, entry: self._end(entry))

    async def close(self) -> None:
        """Cut what is in use, and wait until those who use it know, for a moment at most."""
        for use in self._in_use.values():
            use.timer.cancel()
            _cut(use.connection.driver_connection)
        if self._in_use:
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._is_idle.wait()

    def _connect(
        self,
        dialect: Dialect,
        entry: ConnectionPoolEntry,
        arguments: Sequence[Any],
        parameters: Mapping[str, Any],
    ) -> DBAPIConnection:
        connection = dialect.connect(*arguments, **parameters)
        entry.info[_MADE] = asyncio.get_running_loop().time()
        # Before it is used, SQLAlchemy asks it things and sets it up: that is watched too.
        self._begin(connection, entry)
        return connection

    def _check_out(
        self,
        connection: DBAPIConnection,
        entry: ConnectionPoolEntry,
        _proxy: PoolProxiedConnection,
    ) -> None:
        """Let the pool connect anew where the server has hung up, or is silent elsewhere."""
        # A new connection is used as it is: the pool does not connect a third time.
        is_new = entry in self._in_use
        if not is_new and (
            entry.info[_MADE] < self._silent_since or _has_ended(connection.driver_connection)
        ):
            raise DisconnectionError
        self._begin(connection, entry)

    def _begin(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        self._end(entry)
        self._is_idle.clear()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.patience / 2, self._wait_on, entry)
        self._in_use[entry] = _Use(connection, loop.time(), timer)

    def _wait_on(self, entry: ConnectionPoolEntry) -> None:
        """Wait for the second half of the time.

        If this process was stopped in the first, what the server said meanwhile is still to be
        read: it was not silent.
        """
        timer = asyncio.get_running_loop().call_later(self.patience / 2, self._expire, entry)
        self._in_use[entry] = self._in_use[entry]._replace(timer=timer)

    def _end(self, entry: ConnectionPoolEntry) -> None:
        use = self._in_use.pop(entry, None)
        if use is not None:
            use.timer.cancel()
            if not self._in_use:
                self._is_idle.set()

    def _expire(self, entry: ConnectionPoolEntry) -> None:
        use = self._in_use[entry]
        self._end(entry)
        driver: psycopg.AsyncConnection[Any] = use.connection.driver_connection
        if not driver.closed:
            # Older ones, idle now, may lead to the same host: each would be waited for as long.
            self._silent_since = max(self._silent_since, use.since)
            where = f"{driver.info.host}:{driver.info.port}"
            logger.error("%s did not answer for %.1f s: disconnected", where, self.patience)
            _cut(driver)


def _has_ended(driver: "psycopg.AsyncConnection[Any]") -> bool:
    """Say whether the server has hung up, which costs no round trip to see."""
    if driver.closed:
        return True
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    # An idle connection has nothing to say, except that it ends.
    return bool(poll.poll(0))


def _cut(driver: "psycopg.AsyncConnection[Any]") -> None:
    """Shut the connection down under whoever waits for it."""
    if not driver.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(driver.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)
