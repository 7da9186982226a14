"""Python programs that are forked from a process that has imported the service.

To import it is nearly all the work of a start, and not what most tests are about.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "__main__",  # or each of them would import pytest, which is the main module here
        "hero_api.app",
        "hero_api.cli",
        "hero_api.commands.check",
        "hero_api.server.logs",
        "hero_api.server.server",
        "pydantic.v1",  # which FastAPI imports when a route is made
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.aiosqlite",
        "uvloop",
        __name__,
    ]
)


class ForkedProcess:
    """A process that runs what `python PROGRAM` runs; it is used as a `subprocess.Popen` is.

    What it says on standard error is added to the file `errors`.
    """

    def __init__(
        self, program: Sequence[str], environment: Mapping[str, str], directory: Path, errors: Path
    ) -> None:
        output, its_output = _context.Pipe(duplex=False)
        errors.touch()
        arguments = tuple(program), dict(environment), directory, its_output, errors
        self._process = _context.Process(target=_run, args=arguments)
        with output, its_output:
            self._process.start()
            self.stdout = open(os.dup(output.fileno()))  # noqa: PTH123, SIM115 - closed with it
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """How it ended, as `subprocess.Popen` has it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return how it ended, if it has."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, and give back what it took here."""
        self.kill()
        self.wait()
        self.stdout.close()
        self._process.close()


def _run(
    program: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    output: Connection,
    errors: Path,
) -> None:
    os.dup2(output.fileno(), 1)
    output.close()
    with errors.open("ab") as file:
        os.dup2(file.fileno(), 2)
    # Those of the process that was forked know what kind of file was there.
    sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    option, code, *arguments = program
    sys.argv = [code, *arguments]
    if option == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(code, {"__name__": "__main__"})
