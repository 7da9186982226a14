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
from typing import NoReturn

from hero_api.errors import StartError

_SHORT_LIFE = 5.0  # seconds: who dies within them is started again after a pause
_PAUSE = 1.0  # seconds

logger = logging.getLogger("hero_api")


@dataclass(frozen=True)
class Worker:
    """What a process knows of the one that started it: two ends of pipes."""

    readiness: int
    life: int

    def is_ready(self) -> None:
        """Tell the supervisor that this process serves."""
        # Only at the start does the supervisor wait for it.
        with suppress(BrokenPipeError):
            os.write(self.readiness, b"1")
        os.close(self.readiness)

    def end_with_supervisor(self) -> None:
        """Let this process stop when the supervisor is gone, however that ended."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(self.life)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(self.life, stop)


def stop_signals() -> set[signal.Signals]:
    """Return the signals that end the service: that of a closed terminal too, but under `nohup`."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return {signal.SIGTERM, signal.SIGINT} | (set() if ignored else {signal.SIGHUP})


def supervise(count: int, serve: Callable[[Worker], None], announce: Callable[[], None]) -> None:
    """Run `serve` in `count` processes until a stop signal; `announce` when all are ready.

    Raises `SystemExit` when one of them cannot start; it has said why.
    """
    # What is blocked is not lost: it waits until it is asked for.
    stop = stop_signals()
    watched = stop | {signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    life = os.pipe()
    born: dict[int, float] = {}
    try:
        for _ in range(count):
            readiness = os.pipe()
            born[_fork(serve, readiness, life)] = time.monotonic()
            is_ready = os.read(readiness[0], 1)
            os.close(readiness[0])
            if not is_ready:
                raise SystemExit(1)
        announce()
        while signal.sigwait(watched) not in stop:
            for process in _ended(born):
                age = time.monotonic() - born.pop(process)
                logger.error("The worker %d ended after %.0f s: started again", process, age)
                if age < _SHORT_LIFE and signal.sigtimedwait(stop, _PAUSE):
                    return
                readiness = os.pipe()
                born[_fork(serve, readiness, life)] = time.monotonic()
                os.close(readiness[0])
    finally:
        _stop(born)


def _fork(
    serve: Callable[[Worker], None], readiness: tuple[int, int], life: tuple[int, int]
) -> int:
    """Start a process; return its id, and close the end of `readiness` that is the process's."""
    process = os.fork()
    if process == 0:
        os.close(readiness[0])
        os.close(life[1])
        _work(serve, Worker(readiness[1], life[0]))
    os.close(readiness[1])
    return process


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
        # Not an exit of the command, whose end is the supervisor's.
        os._exit(status)


def _ended(born: dict[int, float]) -> list[int]:
    """Return which processes have ended: one SIGCHLD may stand for several."""
    return [process for process in born if os.waitpid(process, os.WNOHANG)[0]]


def _stop(born: dict[int, float]) -> None:
    """Stop every process, and wait until it has answered what it had read."""
    while born:
        for process in born:
            os.kill(process, signal.SIGTERM)
        # Again after a while: one that had just begun may have missed it.
        signal.sigtimedwait({signal.SIGCHLD}, _PAUSE)
        for process in _ended(born):
            del born[process]
