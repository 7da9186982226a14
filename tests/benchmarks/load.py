"""The load: one run of wrk against a server, and what it did to the server."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .machine import busy, pinned
from .process import Running, ServerError
from .servers import Routes
from .work import Work, example

_ANSWER_WITHIN = 10  # seconds: a request that takes longer counts as an error


@dataclass(frozen=True)
class Figures:
    """What one run measured; a server that answers nothing after it was `hung` by it."""

    rate: float  # answered requests a second
    cpu: float | None  # microseconds of the server's CPU time an answer
    p50: float | None  # milliseconds
    p99: float | None
    longest: float | None
    errors: int  # socket errors, time-outs and answers of 400 and more
    memory: float  # the server's peak, in megabytes
    size: float | None  # bytes of an answer, with its headers
    disturbed: float = 0  # the share of the server's core that other programs took
    hung: bool = False


def check(server: Running, routes: Routes, work: Work) -> None:
    """See that the server answers each kind of request of the work as it should.

    Raises `ServerError`.
    """
    for kind in work.shares:
        method, path, body = example(routes)[kind]
        status, answer = server.ask(method, path, body)
        if status not in {200, 201}:
            raise ServerError(f"it answered {status} to {method} {path}")
        heroes = {"first": 100, "page": 100, "delete": 0}.get(kind, 1)
        if answer.count(b'"secret_name"') != heroes:
            raise ServerError(f"its answer to {method} {path} has not {heroes} heroes")


@dataclass(frozen=True)
class Loader:
    """Loads one server, which has its heroes under `routes`, with one work from `core`."""

    server: Running
    routes: Routes
    work: Work
    core: int

    def run(self, connections: int, seconds: int) -> Figures:
        """Load the server for some seconds over keep-alive connections."""
        newest = self._newest() if self.work.changes else 0
        before, busy_before = self.server.cpu(), busy(self.server.cores[0])
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(self.work.script(self.routes))
            file.flush()
            script = Path(file.name)
            said = _wrk(script, self.server.port, connections, seconds, self.core, newest)
        used = self.server.cpu() - before
        # Of a server on several cores nobody knows what it used of which.
        known = len(self.server.cores) == 1
        others = busy(self.server.cores[0]) - busy_before - used if known else 0
        answers = said["requests"]
        return Figures(
            rate=(answers - said["bad_answers"]) / said["microseconds"] * 1_000_000,
            cpu=used / answers * 1_000_000 if answers else None,
            p50=said["p50"] / 1000 if answers else None,
            p99=said["p99"] / 1000 if answers else None,
            longest=said["longest"] / 1000 if answers else None,
            errors=int(said["socket_errors"] + said["bad_answers"]),
            memory=self.server.peak_memory(),
            size=said["bytes"] / answers if answers else None,
            disturbed=max(0.0, others / said["microseconds"] * 1_000_000),
            hung=not self._answers(),
        )

    def _answers(self) -> bool:
        try:
            self.server.ask("GET", self.routes.first, timeout=_ANSWER_WITHIN)
        except OSError:
            return False
        return True

    def _newest(self) -> int:
        """Return the id of a hero that is created for that: the next ones are greater."""
        status, answer = self.server.ask(*example(self.routes)["create"])
        if status not in {200, 201}:
            raise ServerError(f"it answered {status} to a create")
        return int(json.loads(answer)["id"])


def _wrk(  # noqa: PLR0913, PLR0917 - the arguments of wrk and of its script
    script: Path, port: int, connections: int, seconds: int, core: int, newest: int
) -> dict[str, float]:
    command = [
        *("wrk", "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{seconds}s", "--timeout", f"{_ANSWER_WITHIN}s"),
        *("--script", str(script), f"http://127.0.0.1:{port}"),
        *("--", str(newest), str(connections)),
    ]
    # wrk ends by itself; the time-out is for a machine that stands still.
    done = subprocess.run(
        pinned(command, core), capture_output=True, text=True, check=False, timeout=seconds + 60
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise ServerError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    said: dict[str, float] = json.loads(lines[-1])
    return said
