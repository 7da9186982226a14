"""Several processes that serve as one: started again when one dies, and stopped together."""

import asyncio
import logging
import os
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
_A_MOMENT = 0.05  # seconds: what ends a process may be told to this one after that
_READY = signal.SIGUSR1  # which a process sends when it serves

logger = logging.getLogger("hero_api")


@dataclass(frozen=True)
class Worker:
    """What a process has of its supervisor: its id, and the end of a pipe that it holds open."""

    supervisor: int
    life: int

    def is_ready(self) -> None:
        """Tell the supervisor that this process serves."""
        with suppress(ProcessLookupError):
            os.kill(self.supervisor, _READY)

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
    signal.pthread_sigmask(signal.SIG_BLOCK, stop | {signal.SIGCHLD, _READY})
    start = partial(_fork, serve, os.pipe())
    born: dict[int, float] = {}
    try:
        for _ in range(count):
            try:
                process = start()
            except OSError as error:
                raise StartError(f"Cannot start {count} workers: {error.strerror}") from error
            born[process] = time.monotonic()
            if not _becomes_ready(process, stop):
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


def _fork(serve: Callable[[Worker], None], life: tuple[int, int]) -> int:
    """Start a process, and return its id."""
    worker = Worker(os.getpid(), life[0])
    process = os.fork()
    if process == 0:
        os.close(life[1])
        _work(serve, worker)
    return process


def _becomes_ready(process: int, stop: set[signal.Signals]) -> bool:
    """Wait until a process is ready; return False when a stop signal came before that.

    Raises `SystemExit` when the process ended.
    """
    while (number := signal.sigwait(stop | {signal.SIGCHLD, _READY})) == signal.SIGCHLD:
        # It is still to be waited for, as every other that has ended.
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            # The terminal's Ctrl-C ends the process too, maybe before this one is told.
            if signal.sigtimedwait(stop, _A_MOMENT):
                return False
            raise SystemExit(1)
    return number == _READY


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
