"""A load of clients that create, change, delete, read and list heroes, and keep a ledger of it."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

from .ledger import Change, Hero, Ledger, State
from .wire import Answer, Connection, UnansweredError

_ENOUGH = 12  # heroes: a client that has more of them deletes rather than creates
_REMEMBERED = 20  # deleted heroes that a client goes on to ask for


class Load:
    """Clients, each with heroes of its own, whose every answer is checked against the ledger.

    A client goes on until the load is stopped or the server does not answer any more; after a 503
    it waits `pause` seconds.
    """

    def __init__(
        self, ledger: Ledger, chance: random.Random, *, clients: int, pause: float = 0
    ) -> None:
        self.ledger = ledger
        self.chance = chance
        self.answers = 0
        self.unavailable = 0
        self.broken = 0
        self.stopped = False
        self.pause = pause
        self.longest_gap = 0.0
        self._acknowledged_at = time.monotonic()
        self._progress = asyncio.Event()
        self._clients = clients
        self._serial = itertools.count()
        self._at: tuple[int, Callable[[], None]] | None = None

    async def run(self, host: str, port: int) -> None:
        """Load the server.

        Raises `AssertionError` when an answer is not what the ledger says.
        """
        heroes: list[dict[int, State]] = [{} for _ in range(self._clients)]
        for hero_id, state in self.ledger.known().items():
            heroes[hero_id % self._clients][hero_id] = state
        async with asyncio.TaskGroup() as clients:
            for known in heroes:
                clients.create_task(_Client(self, known).run(host, port))

    def at(self, answers: int, action: Callable[[], None]) -> None:
        """Call `action` once, in the middle of the load, when it has had so many answers more."""
        self._at = (self.answers + answers, action)

    def go_on(self, answers: int) -> None:
        """Let the load run again, for so many answers."""
        self.stopped = False
        self.at(answers, self.stop)

    def stop(self) -> None:
        """Let each client end after its request."""
        self.stopped = True

    def measure_gap(self) -> None:
        """Begin to measure the longest time in which no change is acknowledged."""
        self.longest_gap = 0.0
        self._acknowledged_at = time.monotonic()

    def acknowledge(self, change: Change, hero_id: int) -> None:
        """Note in the ledger that a change has happened."""
        self.ledger.acknowledge(change, hero_id)
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self._acknowledged_at)
        self._acknowledged_at = now

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds, which an answer brings about."""
        while not condition():
            self._progress.clear()
            await self._progress.wait()

    def new_hero(self) -> Hero:
        """Return a hero that is equal to no other."""
        age = self.chance.choice([None, self.chance.randrange(100)])
        return Hero(f"hero {next(self._serial)}", age, "?" * self.chance.randrange(1, 40))

    def count(self) -> None:
        """Count an answer."""
        self.answers += 1
        self._progress.set()
        if self._at is not None and self.answers >= self._at[0]:
            _, action = self._at
            self._at = None
            action()


class _Client:
    def __init__(self, load: Load, known: dict[int, State]) -> None:
        self.load = load
        self.ledger = load.ledger
        self.live = {hero_id: hero for hero_id, hero in known.items() if hero is not None}
        self.gone = [hero_id for hero_id, hero in known.items() if hero is None]

    async def run(self, host: str, port: int) -> None:
        try:
            async with Connection(host, port) as connection:
                while not self.load.stopped:
                    await self._step(connection)
        except UnansweredError:
            self.load.broken += 1

    async def _step(self, connection: Connection) -> None:
        weights = {"create": 1 if len(self.live) > _ENOUGH else 6, "page": 1, "count": 1}
        if self.live:
            weights |= {"clash": 1, "patch": 5, "get": 2}
            weights["delete"] = 5 if len(self.live) > _ENOUGH else 2
        if self.gone:
            weights |= {"recreate": 2, "patch_gone": 1, "delete_gone": 1}
        [verb] = self.load.chance.choices([*weights], [*weights.values()])
        await getattr(self, f"_{verb}")(connection)

    async def _create(self, connection: Connection) -> None:
        hero = self.load.new_hero()
        await self._change(connection, "POST", None, hero, hero._asdict())

    async def _clash(self, connection: Connection) -> None:
        # The hero of that id stays what it is: nothing to begin in the ledger.
        hero_id = self.load.chance.choice([*self.live])
        refused = self.load.new_hero()._asdict() | {"id": hero_id}
        await self._expect(connection, 409, "POST", "/heroes/", refused)

    async def _recreate(self, connection: Connection) -> None:
        hero_id = self.gone.pop(self.load.chance.randrange(len(self.gone)))
        hero = self.load.new_hero()
        await self._change(connection, "POST", hero_id, hero, hero._asdict() | {"id": hero_id})

    async def _patch(self, connection: Connection) -> None:
        hero_id = self.load.chance.choice([*self.live])
        fields = self.load.new_hero()._asdict()
        names = self.load.chance.sample([*fields], self.load.chance.randrange(1, 4))
        changes = {name: fields[name] for name in names}
        after = self.live.pop(hero_id)._replace(**changes)
        await self._change(connection, "PATCH", hero_id, after, changes)

    async def _patch_gone(self, connection: Connection) -> None:
        hero_id = self.load.chance.choice(self.gone)
        changes = self.load.new_hero()._asdict()
        await self._expect(connection, 404, "PATCH", f"/heroes/{hero_id}", changes)

    async def _delete(self, connection: Connection) -> None:
        hero_id = self.load.chance.choice([*self.live])
        del self.live[hero_id]
        await self._change(connection, "DELETE", hero_id, None, None)

    async def _delete_gone(self, connection: Connection) -> None:
        hero_id = self.load.chance.choice(self.gone)
        await self._expect(connection, 404, "DELETE", f"/heroes/{hero_id}")

    async def _get(self, connection: Connection) -> None:
        hero_id, hero = self.load.chance.choice([*self.live.items()])
        answer = await self._expect(connection, 200, "GET", f"/heroes/{hero_id}")
        if answer is not None:
            assert answer.json() == hero._asdict() | {"id": hero_id}

    async def _page(self, connection: Connection) -> None:
        chance = self.load.chance
        after, limit = chance.choice([0, *self.live, *self.gone]), chance.randrange(1, 101)
        query = f"after={after}&limit={limit}&offset={chance.choice([0, 0, 10])}"
        answer = await self._expect(connection, 200, "GET", f"/heroes/?{query}")
        if answer is not None:
            assert min(self._listed(answer, limit), default=after + 1) > after

    async def _count(self, connection: Connection) -> None:
        limit, age = self.load.chance.randrange(1, 101), self.load.chance.randrange(100)
        query = f"min_age={age}&max_age={age + 20}&count=true&limit={limit}"
        answer = await self._expect(connection, 200, "GET", f"/heroes/?{query}")
        if answer is not None:
            heroes = self._listed(answer, limit)
            assert all(age <= hero["age"] <= age + 20 for hero in heroes.values())
            assert len(heroes) == min(int(answer.headers["x-total-count"]), limit)

    def _listed(self, answer: Answer, limit: int) -> dict[int, dict[str, Any]]:
        """Return the heroes of a page by their ids; those of this client are what it knows."""
        page = answer.json()
        heroes = {hero.pop("id"): hero for hero in page}
        assert [*heroes] == sorted(heroes)
        assert len(heroes) == len(page) <= limit
        assert heroes.keys().isdisjoint(self.gone)
        for hero_id in heroes.keys() & self.live.keys():
            assert heroes[hero_id] == self.live[hero_id]._asdict()
        return heroes

    async def _expect(
        self, connection: Connection, status: int, method: str, path: str, content: object = None
    ) -> Answer | None:
        """Ask for what changes nothing; return the answer, but for a 503."""
        answer = await connection.request(method, path, content)
        self.load.count()
        if answer.status == 503:
            assert answer.headers["retry-after"] == "1"
            self.load.unavailable += 1
            await asyncio.sleep(self.load.pause)
            return None
        assert answer.status == status, (method, path, answer)
        if status != 200:
            self.ledger.tally["refused"] += 1
        return answer

    async def _change(
        self,
        connection: Connection,
        method: str,
        hero_id: int | None,
        after: State,
        content: dict[str, Any] | None,
    ) -> None:
        """Ask for a change that should succeed, and keep the ledger."""
        change = Change(hero_id, after)
        self.ledger.begin(change)
        path = "/heroes/" if method == "POST" else f"/heroes/{hero_id}"
        answer = await connection.request(method, path, content)
        if answer.status == 200:
            if after is not None:
                hero_id = int(answer.json()["id"])
                assert answer.json() == after._asdict() | {"id": hero_id}
            assert hero_id is not None
            self.load.acknowledge(change, hero_id)
            self._keep(hero_id, after)
        else:
            assert answer.status in {503, 507}, (method, path, answer)
            assert answer.status == 507 or answer.headers["retry-after"] == "1"
            self.load.unavailable += 1
            if "unknown" in answer.json()["detail"]:
                self.ledger.leave_unknown(change)
            else:
                self.ledger.refuse(change)
                if hero_id is not None:
                    self._keep(hero_id, next(iter(change.before)))
            await asyncio.sleep(self.load.pause)
        self.load.count()

    def _keep(self, hero_id: int, state: State) -> None:
        if state is not None:
            self.live[hero_id] = state
            return
        self.gone.append(hero_id)
        if len(self.gone) > _REMEMBERED:
            self.ledger.forget(self.gone.pop(0))
