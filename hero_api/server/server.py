"""uvicorn, as `hero-api serve` runs it."""

import asyncio
import errno
import gc
import os
import signal
import socket
import sqlite3
import sys
from functools import partial

import typer
import uvicorn
import uvloop
from fastapi import FastAPI

from hero_api.batching import BatchQueues
from hero_api.database.sqlite.engine import has_wal_reset_fault
from hero_api.database.urls import shown
from hero_api.errors import StartError
from hero_api.server.acceptor import Acceptor
from hero_api.server.client_protocol import ProtocolFactory
from hero_api.server.lifecycle import RequestLifecycleMiddleware
from hero_api.server.metrics import ServerCollector
from hero_api.server.signals import stop_signals
from hero_api.server.workers import Worker, supervise
from hero_api.settings import Settings
from hero_api.web.access_log import AccessLogMiddleware

_ONE_PROCESS = (
    f"SQLite {sqlite3.sqlite_version} can damage a database that several processes write "
    "(sqlite.org/wal.html, the WAL-reset bug): serve with one worker, "
    "use SQLite 3.51.3 or newer, or use PostgreSQL"
)
# Seconds after SIGTERM. The end is promised within five of them.
_START = 0.5  # until a start that is not done is cut off
_CATCH_UP = 1.0  # until requests that were read behind others have begun
_PATIENCE = 2.5  # until neither the database nor a client is waited for
_DRAIN = 3  # after the first: until uvicorn cancels what is left


def serve(  # noqa: PLR0913 - what the command was told
    app: FastAPI,
    settings: Settings,
    host: str,
    port: int,
    workers: int = 1,
    *,
    access_log: bool = False,
) -> None:
    """Serve `app` until SIGTERM, SIGINT or SIGHUP; then answer what was read, and return.

    Raises `StartError`, one line, when the address or the database cannot be used.
    """
    if workers > 1 and not settings.is_postgresql and has_wal_reset_fault():
        raise StartError(_ONE_PROCESS)
    app.state.access_log = access_log
    with _listen(host, port) as listener:
        run = partial(_run, app, settings, listener)
        if workers > 1:
            supervise(workers, run, partial(_announce, settings, listener))
        else:
            run(None)


def _run(app: FastAPI, settings: Settings, listener: socket.socket, worker: Worker | None) -> None:
    """Serve in this process, alone or as one of several."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, settings, listener, worker))


async def _serve(
    app: FastAPI, settings: Settings, listener: socket.socket, worker: Worker | None
) -> None:
    cheap: tuple[bytes, ...] = app.state.cheap_requests
    connections = ProtocolFactory(settings.client_timeout, settings.max_waiting, cheap)
    config = uvicorn.Config(
        RequestLifecycleMiddleware(AccessLogMiddleware(app) if app.state.access_log else app),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN,
    )
    server = _Server(config, app, listener, connections)
    app.state.metrics.registry.register(ServerCollector(server.server_state))
    if worker:
        app.state.metrics.worker = str(os.getpid())
    loop = asyncio.get_running_loop()

    def cut_off() -> None:
        # The start waits for a lock, or for a server that is silent, and to cancel it would wait
        # too. Nobody was answered yet, and what it began in the database is undone there.
        if not server.started:
            os._exit(0)

    def end(*_: object) -> None:
        if not server.should_exit:
            server.should_exit = True
            loop.call_soon_threadsafe(loop.call_later, _START, cut_off)

    # A signal ends the server before it runs too. uvicorn raises it again at the end, to end the
    # process by it, but a clean end is status 0.
    for number in stop_signals():
        signal.signal(number, end)
    # Not uvicorn's own lifespan: that prints a traceback when the start fails.
    async with app.router.lifespan_context(app):
        if server.should_exit:
            return
        if worker:
            worker.end_with_supervisor()
            worker.is_ready()
        else:
            _announce(settings, listener)
        # What was imported lives for ever: the collector need not look at it again, nor often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 10)
        sweep = asyncio.create_task(connections.sweep())
        await server.serve()
        sweep.cancel()


class _Server(uvicorn.Server):
    """uvicorn's server, but for how it accepts connections, and how it ends.

    When it ends, what the database does not answer in time is answered 503.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        listener: socket.socket,
        connections: ProtocolFactory,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener
        self._connections = connections
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, on no socket of uvicorn's."""
        await super().startup(sockets or [])
        protocol = partial(
            self._connections,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self._acceptor = Acceptor(self._listener, protocol)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was read, and close the connections."""
        self._app.state.draining = True
        if self._acceptor:
            self._acceptor.close()
        asyncio.get_running_loop().call_later(_PATIENCE, self._give_up)
        # uvicorn would close a connection after the request under way, whatever was read behind it.
        await self._connections.catch_up(_CATCH_UP)
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        """Wait no more for the database, nor for clients: uvicorn would cancel what is left."""
        queues: BatchQueues = self._app.state.queues
        queues.give_up()
        self._connections.abort_waiting()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        option = "--port" if error.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
        message = f"Cannot listen on {host} port {port}: {reason}; try another {option}"
        raise StartError(message) from error


def _announce(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    where, durability = _where_and_how_durable(settings)
    try:
        typer.echo(
            f"Listening on http://{host}:{port} (documentation at /docs)\n"
            f"Heroes in    {' '.join(str(where).splitlines())}\n"
            f"Durability   {durability}"
        )
    except OSError:
        # Nobody reads it, or there is no room for it: that is no reason not to serve. What could
        # not be written would be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _where_and_how_durable(settings: Settings) -> tuple[object, str]:
    if settings.is_postgresql:
        # With its password hidden.
        return shown(settings.url), "PostgreSQL's, by its settings fsync and synchronous_commit"
    durability = (
        "every answered write is on disk, and survives a power cut"
        if settings.synchronous == "FULL"
        else "answered writes survive a crash of the process; a power cut may take back the last"
    )
    return settings.path, f"{settings.synchronous}: {durability}"
