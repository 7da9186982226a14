"""A soak: a mixed load for a long time, and what it makes of the server."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import serving

from .ledger import Ledger, Verdict, stored_heroes
from .load import Load

CLIENTS = 256
_FIRST_MINUTES = 180.0  # seconds, of a soak that is long enough: memory may grow in them
_SAMPLE_EVERY = 1.0


@dataclass
class Soaked:
    """What the soak has shown so far; memory in megabytes, a sample a second after the first."""

    answers: int = 0
    errors: int = 0
    memory: list[float] = field(default_factory=list)
    descriptors: set[int] = field(default_factory=set)
    verdict: Verdict | None = None

    @property
    def growth(self) -> float:
        """By which share the memory has grown: the last tenth of the samples beside the first."""
        tenth = max(1, len(self.memory) // 10)
        first = statistics.median(self.memory[:tenth])
        return statistics.median(self.memory[-tenth:]) / first - 1


async def soak(
    directory: Path, seed: int, seconds: float, *, clients: int = CLIENTS
) -> AsyncIterator[Soaked]:
    """Load a server for so many seconds; yield what it has shown so far, each second."""
    ledger = Ledger()
    load = Load(ledger, random.Random(seed), clients=clients)
    soaked = Soaked()
    first = min(_FIRST_MINUTES, seconds / 3)
    with serving(directory) as server:
        began = time.monotonic()
        loading = asyncio.create_task(load.run(server.host, server.port))
        while time.monotonic() < began + seconds and not loading.done():
            await asyncio.sleep(_SAMPLE_EVERY)
            soaked.answers, soaked.errors = load.answers, load.unavailable + load.broken
            if time.monotonic() > began + first:
                soaked.memory.append(server.memory())
                soaked.descriptors.add(server.descriptors())
            yield soaked
        load.stop()
        await loading
        soaked.answers, soaked.errors = load.answers, load.unavailable + load.broken
        soaked.verdict = ledger.check(stored_heroes(server.file))
        yield soaked
