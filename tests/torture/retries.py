"""Clients that create heroes under keys, and send each again until they know that it is stored."""

import asyncio
from collections import defaultdict
from typing import Any

from .ledger import Change, Hero
from .load import Load
from .wire import Connection, UnansweredError

_SENT_AGAIN = 0.1  # of those that were answered


class Retries(Load):
    """A load of creates, each with an Idempotency-Key of its own, the hero's name.

    A hero whose answer does not come, or is a 503, is sent again: over a new connection, to the
    next server, until it is answered. A load that is stopped ends when every hero is.
    """

    def __init__(self, *arguments: Any, clients: int, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, clients=clients, **options)
        self.answered: dict[str, int] = {}
        self.replays = 0
        self._pending: list[Hero | None] = [None] * clients

    async def run(self, host: str, port: int) -> None:
        """Load the server until it does not answer any more, or the load is stopped."""
        async with asyncio.TaskGroup() as clients:
            for place in range(len(self._pending)):
                clients.create_task(self._run_client(place, host, port))

    def wrong(self, stored: dict[int, Hero]) -> list[str]:
        """Return the keys that have not one hero each, with the id that was answered."""
        ids: defaultdict[str, list[int]] = defaultdict(list)
        for hero_id, hero in stored.items():
            ids[hero.name].append(hero_id)
        return [
            f"{name} was answered {self.answered.get(name)}, and stored as {ids[name]}"
            for name in {*ids, *self.answered}
            if ids[name] != [self.answered.get(name)]
        ]

    async def _run_client(self, place: int, host: str, port: int) -> None:
        try:
            async with Connection(host, port) as connection:
                while self._pending[place] or not self.stopped:
                    await self._send(place, connection)
        except UnansweredError:
            self.broken += 1

    async def _send(self, place: int, connection: Connection) -> None:
        hero = self._pending[place] = self._pending[place] or self.new_hero()
        change = Change(None, hero)
        self.ledger.begin(change)
        headers = {"Idempotency-Key": hero.name}
        answer = await connection.request("POST", "/heroes/", hero._asdict(), headers)
        if answer.status == 200:
            hero_id = int(answer.json()["id"])
            assert answer.json() == hero._asdict() | {"id": hero_id}
            assert self.answered.setdefault(hero.name, hero_id) == hero_id
            self.replays += "idempotent-replayed" in answer.headers
            self.acknowledge(change, hero_id)
            if self.chance.random() > _SENT_AGAIN:
                self._pending[place] = None
        else:
            assert answer.status == 503, answer
            self.unavailable += 1
            self.ledger.leave_unknown(change)  # this time or an earlier one
            await asyncio.sleep(self.pause)
        self.count()
