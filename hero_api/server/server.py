"""uvicorn, as `hero-api serve` runs it."""

import asyncio
import gc
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import typer
import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import Gauge

from hero_api.batching import BatchQueues
from hero_api.database.sqlite.engine import has_wal_reset_fault
from hero_api.errors import StartError
from hero_api.server.acceptor import Acceptor
from hero_api.server.admission import AdmissionLimiter
from hero_api.server.client_protocol import ProtocolFactory
from hero_api.server.forwarded_prefix import ForwardedPrefixMiddleware
from hero_api.server.lifecycle import RequestLifecycleMiddleware
from hero_api.server.listener import Listener
from hero_api.server.signals import stop_signals
from hero_api.server.workers import Worker, supervise
from hero_api.settings import Settings
from hero_api.web.access_log import AccessLogMiddleware
from hero_api.web.health import PROBES

_ONE_PROCESS = (
    f"SQLite {sqlite3.sqlite_version} can damage a database that several processes write "
    "(sqlite.org/wal.html, the WAL-reset bug): serve with one worker, "
    "use SQLite 3.51.3 or newer, or use PostgreSQL"
)
# Requests that are under way at a time.
_READS = 64  # a batch of gets
_WRITES = 256  # a batch
_LOCKED_ROW = 1.0  # seconds
# Seconds after SIGTERM; the service ends within five.
_START = 0.5  # until a start that is not done is cut off
_DRAIN = 1.0  # until requests that wait, or were read behind others, have begun
_PATIENCE = 2.5  # until neither the database nor a client is waited for
_CANCEL = 3  # after the drain: until uvicorn cancels what is left


def serve(
    app: FastAPI,
    listener: Listener,
    *,
    workers: int = 1,
    access_log: bool = False,
    forwarded_prefix: bool = False,
    **options: Any,  # noqa: ANN401 - uvicorn's own, such as `ssl_certfile`
) -> None:
    """Serve `app` until SIGTERM, SIGINT or SIGHUP; then answer what was read, and return.

    Raises `StartError`, one line, when the database or an option cannot be used.
    """
    settings: Settings = app.state.settings
    with closing(listener):
        if workers > 1 and not settings.is_postgresql and has_wal_reset_fault():
            raise StartError(_ONE_PROCESS)
        config = _configure(app, options, access_log=access_log)
        if forwarded_prefix:
            config.loaded_app = ForwardedPrefixMiddleware(
                config.loaded_app, config.forwarded_allow_ips
            )
        announce = partial(_announce, settings, listener.name("https" if config.ssl else "http"))

        def run(worker: Worker | None = None) -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(app, config, listener, announce, worker))

        if workers > 1:
            supervise(workers, run, announce, listener.stop)
        else:
            run()


def _configure(app: FastAPI, options: dict[str, Any], *, access_log: bool) -> uvicorn.Config:
    if options.get("ssl_keyfile") and not options.get("ssl_certfile"):
        raise StartError("--ssl-keyfile needs --ssl-certfile")
    config = uvicorn.Config(
        RequestLifecycleMiddleware(AccessLogMiddleware(app) if access_log else app),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        # The client's address is for the log; to look for it costs each request a microsecond.
        proxy_headers=access_log or options.get("forwarded_allow_ips") is not None,
        server_header=False,
        timeout_graceful_shutdown=_CANCEL,
        **options,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or error
        raise StartError(f"Cannot use --ssl-certfile or --ssl-keyfile: {reason}") from error
    return config


async def _serve(
    app: FastAPI,
    config: uvicorn.Config,
    listener: Listener,
    announce: Callable[[], None],
    worker: Worker | None,
) -> None:
    """Serve in this process, alone or as one of several."""
    settings: Settings = app.state.settings
    timeout = settings.request_timeout
    # Reads that take long do not count. On SQLite such writes do: it has one writer anyway, and
    # one that stands still would otherwise let everything in. On PostgreSQL a write may wait for a
    # locked row, which is to hold up nobody else for long.
    patience = _LOCKED_ROW if settings.is_postgresql else float("inf")
    safe = AdmissionLimiter(_READS, timeout)
    unsafe = AdmissionLimiter(_WRITES, timeout, patience)
    protocols = ProtocolFactory(settings.client_timeout, safe=safe, unsafe=unsafe, exempt=PROBES)
    server = _Server(config, app, listener, protocols)
    gauge = partial(Gauge, registry=app.state.metrics)
    connections = gauge("hero_api_connections", "Connections that are open.")
    connections.set_function(lambda: len(protocols.open))
    waiting = gauge("hero_api_requests_waiting", "Requests not begun yet.")
    waiting.set_function(lambda: safe.waiting + unsafe.waiting)
    under_way = gauge("hero_api_requests_under_way", "Requests begun and not answered.")
    under_way.set_function(lambda: len(server.server_state.tasks))
    if worker:
        app.state.metrics.worker = str(os.getpid())
    loop = asyncio.get_running_loop()

    def cut_off() -> None:
        # The start waits for a lock or a silent server, and to cancel it would wait too. Nobody
        # was answered yet, and the database undoes what was begun.
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
            worker.tell_ready()
        else:
            announce()
        # Imported objects live for ever: the collector need not look at them, nor run often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 10)
        sweep = asyncio.create_task(protocols.sweep())
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
        listener: Listener,
        protocols: ProtocolFactory,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._listener = listener
        self._protocols = protocols

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, on no socket of uvicorn's."""
        await super().startup(sockets or [])
        protocol = partial(self._protocols, self.config, self.server_state)
        timeout = self._app.state.settings.client_timeout
        self._acceptor = Acceptor(self._listener.socket, protocol, self.config.ssl, timeout)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was read, and close the connections."""
        self._app.state.draining = True
        self._listener.stop()
        await self._acceptor.close()
        asyncio.get_running_loop().call_later(_PATIENCE, self._give_up)
        # uvicorn would close idle connections at once, and the others after the request under way,
        # whatever was read behind it.
        await self._protocols.drain(_DRAIN)
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        """Stop waiting for the database and for clients: uvicorn would cancel what is left."""
        queues: BatchQueues = self._app.state.queues
        queues.give_up()
        self._protocols.abort_waiting()


def _announce(settings: Settings, listens_on: str) -> None:
    try:
        typer.echo(
            f"Listening on {listens_on} (documentation at /docs)\n"
            f"Heroes in    {' '.join(settings.database_name.splitlines())}\n"
            f"Durability   {_durability(settings)}"
        )
    except OSError:
        # Nobody reads it, or the disk is full: that is no reason not to serve. Without another
        # standard output, Python would try to write it again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _durability(settings: Settings) -> str:
    if settings.is_postgresql:
        return "PostgreSQL's, by its settings fsync and synchronous_commit"
    if settings.synchronous == "FULL":
        return "FULL: every answered write is on disk, and survives a power cut"
    return (
        "NORMAL: answered writes survive a crash of the process; a power cut may take back the last"
    )
