"""A server's process: started on one core, asked, measured through /proc, and stopped."""

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .machine import TICKS, pinned

_START_WITHIN = 30.0  # seconds
_STOP_WITHIN = 5.0


class ServerError(Exception):
    """A server did not start, or does not answer as it should; the message is one line."""


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    cores: Sequence[int]
    log: Path

    def ask(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; return the status and the body.

        Raises `OSError` when the server does not answer.
        """
        headers = {"Content-Type": "application/json", **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def wait(self, path: str, interval: float = 0.02) -> None:
        """Wait until the server answers; with whatever status."""
        end = time.monotonic() + _START_WITHIN
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("GET", path)
            except OSError:
                time.sleep(interval)
            else:
                return
        lines = self.log.read_text(errors="replace").splitlines() or ["it said nothing"]
        raise ServerError(f"it did not start: {lines[-1]}")

    def cpu(self) -> float:
        """Return the seconds of CPU time that the server and its children used so far."""
        return sum(int(stat[11]) + int(stat[12]) for stat in self._stats()) / TICKS

    def peak_memory(self) -> float:
        """Return the most memory that the server and its children had so far, in megabytes."""
        kilobytes = 0
        for stat in self._stats():
            status = Path("/proc", stat[-1], "status").read_text(encoding="utf-8")
            kilobytes += sum(
                int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
            )
        return kilobytes / 1024

    def _stats(self) -> Iterator[list[str]]:
        """Yield /proc's figures of each process of the session, and at the end its id."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name, in brackets, may hold blanks: what follows it is regular.
                fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[3]) == self.process.pid:
                yield [*fields, path.parent.name]


@contextmanager
def running(
    command: list[str],
    port: int,
    cores: Sequence[int],
    directory: Path,
    environment: Mapping[str, str],
) -> Iterator[Running]:
    """Run `command` in `directory`, in a session of its own; at the end it is stopped."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("HERO_API_")
    }
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            pinned(command, *cores),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**inherited, **environment},
            start_new_session=True,
        )
        try:
            yield Running(process, port, cores, log)
        finally:
            _stop(process)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
