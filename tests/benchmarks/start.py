"""The start: how long until the hero API's first answer, beside what its imports take."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .machine import pinned
from .process import free_port, running
from .race import Plan
from .results import Results
from .servers import OURS

_IMPORTS = "import fastapi, sqlmodel, uvicorn"
_PAIRS = 5  # in each round; one of each before them, uncounted, reads the files


def steps(plan: Plan) -> int:
    """How many pairs that is."""
    return plan.rounds * _PAIRS + 1


def measure(plan: Plan, results: Results, report: Callable[[str], None]) -> None:
    """Time starts on an empty directory, each beside an import."""
    for _ in range(steps(plan)):
        report(f"start: {OURS.name}")
        with tempfile.TemporaryDirectory(dir=plan.directory) as directory:
            results.starts.append(
                (_first_answer(Path(directory), plan.cores.server), _imports(plan.cores.server))
            )
    del results.starts[0]


def _first_answer(directory: Path, core: int) -> float:
    port = free_port()
    command, environment = OURS.command(port, directory), OURS.environment(directory)
    begin = time.perf_counter()
    with running(command, port, [core], directory, environment) as process:
        process.wait(OURS.routes.first, interval=0.001)
        return time.perf_counter() - begin


def _imports(core: int) -> float:
    begin = time.perf_counter()
    subprocess.run(pinned([sys.executable, "-c", _IMPORTS], core), check=True)
    return time.perf_counter() - begin
