"""SIGTERM in the middle of a load."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.servers import serving

from .ledger import Ledger, Verdict, integrity, stored_heroes
from .load import Load

CLIENTS = 40
PROMISE = 5.0  # seconds
PATIENCE = PROMISE * 4


@dataclass(frozen=True)
class Stopped:
    """How a server ended; `verdict` takes what was not answered for refused."""

    status: int
    seconds: float  # from the signal to the end of the process
    log: str
    files: set[str]
    integrity: str
    unavailable: int
    verdict: Verdict

    @property
    def is_clean(self) -> bool:
        """Say whether nothing is wrong with it, but for its time."""
        said = (self.status, self.log, self.integrity, self.verdict)
        return said == (0, "", "ok", ([], [])) and self.files == {"heroes.db", "stderr"}


async def stop(directory: Path, chance: random.Random) -> Stopped:
    """Stop a server by SIGTERM in the middle of a load, and look at what it left."""
    ledger = Ledger()
    load = Load(ledger, chance, clients=CLIENTS)
    sent: list[float] = []
    with serving(directory) as server:

        def terminate() -> None:
            sent.append(time.monotonic())
            server.process.terminate()

        load.at(chance.randrange(1, 1_500), terminate)
        await load.run(server.host, server.port)
        status = server.process.wait(PATIENCE)
        [began] = sent
        seconds = time.monotonic() - began
    # What was not answered was not read, then: it must not have happened.
    ledger.refuse_unanswered()
    return Stopped(
        status,
        seconds,
        server.log.read_text(),
        _names(directory),
        integrity(server.file),
        load.unavailable,
        ledger.check(stored_heroes(server.file)),
    )


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}
