"""Several processes that serve as one: started again when one dies, and stopped together."""

import asyncio
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from hero_api.errors import StartError
from hero_api.server.signals import stop_signals

_SHORT_LIFE = 5.0  # seconds: a process that dies sooner is started again after a pause
_PAUSE = 1.0  # seconds
_PATIENCE = 4.5  # seconds: a process that has not ended by then is killed
_LOOK_EVERY = 0.05  # seconds: for what ends the start, while a process starts

logger = logging.getLogger("hero_api")


@dataclass(frozen=True)
class Worker:
    """The ends of two pipes, which all processes share, to the supervisor."""

    readiness: int
    life: int

    def tell_ready(self) -> None:
        """Tell the supervisor that this process serves."""
        # No signal: one that is not waited for just then would end a supervisor that has threads,
        # such as telemetry's, which do not block it. Nobody reads on after the start.
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self.readiness, b"1")

    def end_with_supervisor(self) -> None:
        """Let this process stop when the supervisor is gone, however that ended."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(self.life)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(self.life, stop)


def supervise(
    count: int,
    serve: Callable[[Worker], None],
    announce: Callable[[], None],
    stop_listening: Callable[[], None],
) -> None:
    """Run `serve` in `count` processes until a stop signal; `announce` when all are ready.

    Raises `StartError` when there cannot be so many processes, and `SystemExit` when one of them
    cannot start; it has said why.
    """
    # A blocked signal is not lost: it stays pending until it is waited for.
    stop = stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stop | {signal.SIGCHLD})
    readiness, life = os.pipe(), os.pipe()
    os.set_blocking(readiness[1], False)
    start = partial(_fork, serve, readiness, life)
    born: dict[int, float] = {}
    try:
        for _ in range(count):
            try:
                process = start()
            except OSError as error:
                raise StartError(f"Cannot start {count} workers: {error.strerror}") from error
            born[process] = time.monotonic()
            if not _becomes_ready(process, readiness[0], stop):
                return
        announce()
        while True:
            pause = 0.0
            for process in _ended(born):
                age = time.monotonic() - born.pop(process)
                logger.error("The worker %d ended after %.0f s: started again", process, age)
                pause = _PAUSE if age < _SHORT_LIFE else pause
            while len(born) < count:
                if signal.sigtimedwait(stop, pause):
                    return
                try:
                    born[start()] = time.monotonic()
                except OSError as error:
                    # The others serve meanwhile.
                    reason = error.strerror
                    logger.warning("A worker cannot be started: %s; it is tried again", reason)
                    pause = _PAUSE
            if signal.sigwait(stop | {signal.SIGCHLD}) in stop:
                return
    finally:
        stop_listening()
        _stop(born)


def _fork(
    serve: Callable[[Worker], None], readiness: tuple[int, int], life: tuple[int, int]
) -> int:
    """Start a process, and return its id."""
    process = os.fork()
    if process == 0:
        os.close(readiness[0])
        os.close(life[1])
        _work(serve, Worker(readiness[1], life[0]))
    return process


def _becomes_ready(process: int, readiness: int, stop: set[signal.Signals]) -> bool:
    """Wait until a process is ready; return False when a stop signal came before that.

    Raises `SystemExit` when the process ended.
    """
    while not select.select([readiness], [], [], _LOOK_EVERY)[0]:
        if signal.sigtimedwait(stop, 0):
            return False
        # It is still to be waited for, as every other that has ended.
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            # The terminal's Ctrl-C ends the process too, maybe before this one is told.
            if signal.sigtimedwait(stop, _LOOK_EVERY):
                return False
            raise SystemExit(1)
    os.read(readiness, 1)
    return True


def _work(serve: Callable[[Worker], None], worker: Worker) -> NoReturn:
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        serve(worker)
        status = 0
    except StartError as error:
        sys.stderr.write(f"hero-api: {error}\n")
    except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Without what the command does at its exit: that is the supervisor's.
        os._exit(status)


def _ended(born: dict[int, float]) -> list[int]:
    """Return which processes have ended: one SIGCHLD may stand for several."""
    return [process for process in born if os.waitpid(process, os.WNOHANG)[0]]


def _stop(born: dict[int, float]) -> None:
    """Stop every process, and wait until it has answered what it had read, but not for ever."""
    end = time.monotonic() + _PATIENCE
    while born:
        number = signal.SIGTERM if time.monotonic() < end else signal.SIGKILL
        for process in born:
            os.kill(process, number)
        # Again after a while: one that had just begun may have missed it.
        signal.sigtimedwait({signal.SIGCHLD}, _PAUSE)
        for process in _ended(born):
            del born[process]
