"""Clients whose requests are good, beside one whose request the database refuses."""

import asyncio
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hero_api.settings import Settings
from tests.clusters import Cluster, connection_to, stored
from tests.servers import Server, serving

from .ledger import Change, Hero, Ledger, Verdict
from .refusals import NARROW_IDS, WIDE_IDS, Refusal, new_hero
from .wire import Answer, Connection

SECONDS = 3.0
DELAY = 5  # milliseconds that a slow sync takes longer
KEPT = 0.5  # of their rate, by the good clients, where a sync is slow
CROWD = 100  # clients: as many ask a little irregularly, or they would all be in every other batch
_JITTER = 0.01  # seconds
_WARM_UP = 0.5  # seconds
_TURNS = 2
_RETYPING = 8  # clients of each kind
_PLACES = ("heroes", "others")

# PostgreSQL has this delay itself, but only where it syncs at all.
CLUSTER = {"fsync": "on", "commit_siblings": 0}
# A filter in the kernel lets all other calls run at full speed; the server is not strace's child.
_STRACE = (
    *("strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"),
    *("-e", f"inject=fdatasync,fsync:delay_exit={DELAY * 1_000}"),
)


@dataclass
class Seen:
    """What came of one refusal: answers by status, rates, and what is stored at the end.

    `alone` and `beside` are good answers a second without the culprit and with it.
    """

    good: int = 0
    lost: Counter[int] = field(default_factory=Counter)
    culprit: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    alone: dict[bool, float] = field(default_factory=dict)
    beside: dict[bool, float] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=lambda: Verdict([], []))

    def kept(self, *, slow: bool) -> float | None:
        """Return the share of their rate that good clients keep, where that was measured."""
        alone, beside = self.alone[slow], self.beside.get(slow)
        return beside / alone if alone and beside is not None else None


async def compare(  # noqa: PLR0913 - what is compared, where, and how
    refusal: Refusal,
    place: Path,
    cluster: Cluster | None,
    clients: int,
    seed: int,
    *,
    slow: Sequence[bool],
) -> Seen:
    """Load a service with and without who asks for what is refused, with and without slow syncs."""
    settings = await refusal.prepare(place, cluster)
    load = _Load(refusal, clients, random.Random(seed))
    load.ledger.check(_heroes(settings))  # what is there already is to stay
    for is_slow in slow:
        with _servers(refusal, settings, place, cluster, slow=is_slow) as servers:
            await load.run(servers, _WARM_UP)
            rates: dict[int, list[float]] = {0: []}
            if refusal.bad is not None:
                rates[clients if refusal.half else 1] = []
            # In turns, so that a machine that is slow for a while is so for both.
            for bad, seen in [*rates.items()] * _TURNS:
                seen.append(await load.run(servers, SECONDS / _TURNS, bad=bad))
            load.seen.alone[is_slow], *beside = map(statistics.mean, rates.values())
            if beside:
                [load.seen.beside[is_slow]] = beside
    load.seen.verdict = load.ledger.check(_heroes(settings))
    return load.seen


class _Load:
    def __init__(self, refusal: Refusal, clients: int, chance: random.Random) -> None:
        self.refusal = refusal
        self.clients = clients
        self.chance = chance
        self.seen = Seen()
        self.ledger = Ledger()
        self._number = 0
        self._end = 0.0

    async def run(self, servers: Sequence[Server], seconds: float, *, bad: int = 0) -> float:
        """Return good answers a second, beside so many clients that ask for what is refused."""
        before, began = self.seen.good, time.monotonic()
        self._end = began + seconds
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            for number in range(self.clients + bad):
                server = servers[number % len(servers)]
                connection = Connection(server.host, server.port)
                await stack.enter_async_context(connection)
                ask = self._ask_well if number < self.clients else self._ask_badly
                tasks.create_task(ask(connection))
        return (self.seen.good - before) / (time.monotonic() - began)

    async def _ask_well(self, connection: Connection) -> None:
        while time.monotonic() < self._end:
            if self.clients >= CROWD:
                await asyncio.sleep(self.chance.random() * _JITTER)
            hero_id = await self._create(connection)
            if self.refusal.deletes and hero_id is not None:
                change = Change(hero_id, None)
                self.ledger.begin(change)
                answer = await connection.request("DELETE", f"/heroes/{hero_id}")
                self._settle(change, hero_id, answer)

    async def _create(self, connection: Connection) -> int | None:
        content = new_hero(self._next())
        expected = content | {"name": self._name(str(content["name"]))}
        change = Change(None, Hero(**expected))
        self.ledger.begin(change)
        answer = await connection.request("POST", "/heroes/", content)
        hero_id = None
        if answer.status == 200:
            hero = answer.json()
            hero_id = int(hero["id"])
            if hero != expected | {"id": hero_id}:
                self.seen.wrong.append(f"{hero} is answered to who sent {content}")
        self._settle(change, hero_id, answer)
        return hero_id

    def _settle(self, change: Change, hero_id: int | None, answer: Answer) -> None:
        if answer.status == 200 and hero_id is not None:
            self.seen.good += 1
            self.ledger.acknowledge(change, hero_id)
            return
        self.seen.lost[answer.status] += 1
        if "unknown" in answer.json()["detail"]:
            self.ledger.leave_unknown(change)
        else:
            self.ledger.refuse(change)

    async def _ask_badly(self, connection: Connection) -> None:
        assert self.refusal.bad is not None
        while time.monotonic() < self._end:
            answer = await connection.request(*self.refusal.bad(self._next()))
            self.seen.culprit[answer.status] += 1

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _name(self, sent: str) -> str:
        return sent.upper() if self.refusal.changes_names else sent


@contextmanager
def _servers(
    refusal: Refusal, settings: Settings, place: Path, cluster: Cluster | None, *, slow: bool
) -> Iterator[Sequence[Server]]:
    """Start the servers of a refusal, with slow syncs or not."""
    prefix: Sequence[str] = ()
    if cluster is None:
        prefix = _STRACE if slow else ()
    else:
        with cluster.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET commit_delay = {DELAY * 1_000 if slow else 0}")
            connection.execute("SELECT pg_reload_conf()")
    with ExitStack() as stack:
        servers = []
        for name in _PLACES[: refusal.servers]:
            directory = place / name
            directory.mkdir(exist_ok=True)
            url = settings.database_url
            servers.append(stack.enter_context(serving(directory, prefix=prefix, database_url=url)))
        yield servers


def _heroes(settings: Settings) -> dict[int, Hero]:
    return {hero_id: Hero(*fields) for hero_id, *fields in stored(settings)}


class Retyped(NamedTuple):
    """What came of an ALTER of the ids' type under load: answers, and those that were not 200.

    `at_last` are those of them that came in the last third of the time.
    """

    answers: int
    failed: Counter[str]
    at_last: Counter[str]


async def retype(place: Path, cluster: Cluster) -> Retyped:
    """Make 64 bits of the 32 that ids have, while heroes are created, got and listed."""
    refusal = Refusal("narrow ids", "postgresql", NARROW_IDS, None)
    settings = await refusal.prepare(place, cluster)
    recent: deque[tuple[float, str, int]] = deque()

    async def ask(server: Server, end: float, method: str, path: str, content: object) -> None:
        async with Connection(server.host, server.port) as connection:
            while time.monotonic() < end:
                answer = await connection.request(method, path, content)
                kind = f"{answer.status} to {method} {path.partition('?')[0]}"
                recent.append((time.monotonic(), kind, answer.status))

    async with _retyping(refusal, settings, place, cluster) as server:
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as tasks:
            for number in range(_RETYPING):
                tasks.create_task(ask(server, end, "POST", "/heroes/", new_hero(number)))
                tasks.create_task(ask(server, end, "GET", "/heroes/1", None))
                tasks.create_task(ask(server, end, "GET", f"/heroes/?limit={number}", None))
            await asyncio.sleep(SECONDS / 3)  # every statement has long been prepared then
            await asyncio.to_thread(_widen, settings)
    failed = [(when, kind) for when, kind, status in recent if status != 200]
    last = end - SECONDS / 3
    return Retyped(
        len(recent),
        Counter(kind for _, kind in failed),
        Counter(kind for when, kind in failed if when > last),
    )


@asynccontextmanager
async def _retyping(
    refusal: Refusal, settings: Settings, place: Path, cluster: Cluster
) -> AsyncIterator[Server]:
    with _servers(refusal, settings, place, cluster, slow=False) as [server]:
        async with Connection(server.host, server.port) as connection:
            assert (await connection.request("POST", "/heroes/", new_hero(0))).status == 200
        yield server


def _widen(settings: Settings) -> None:
    with connection_to(settings) as connection:
        connection.execute(WIDE_IDS)
