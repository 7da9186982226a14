"""Random concurrent requests, whose answers are then explained by a serial order on a plain model.

An answer is explained hero by hero: some order of the operations on a hero, one that puts no
operation before another that had ended when it began, must lead from what was stored before them
to what is stored after them, with each operation answered as it was.
"""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI

from hero_api.settings import Settings
from hero_api.testing import running

from .clusters import stored

WAVES, CLIENTS, REQUESTS = 6, 24, 12
HOT = range(1, 9)
"""Ids that clients choose, and that most requests are about."""


class Hero(NamedTuple):
    name: str
    age: int | None
    secret_name: str


State = Hero | None


class Operation(NamedTuple):
    """What a request did to one hero, or saw of it, and between which ticks of the clock."""

    began: int
    ended: int
    verb: str
    succeeded: bool
    changes: dict[str, Any]
    answer: State

    @property
    def is_read(self) -> bool:
        """Whether the operation leaves every state as it is."""
        return (
            not self.succeeded or self.verb == "get" or (self.verb == "patch" and not self.changes)
        )

    def is_possible(self, state: State) -> bool:
        """Say whether the operation is answered as it was when the hero is in `state`."""
        match self.verb, self.succeeded:
            case "create", succeeded:
                return (state is None) == succeeded
            case "patch", True:
                return state is not None and state._replace(**self.changes) == self.answer
            case "delete", True:
                return state is not None
            case _:
                return state == self.answer

    def outcome(self, state: State) -> State:
        """Return the state after it."""
        return state if self.verb == "create" and not self.succeeded else self.answer


class Page(NamedTuple):
    """What a request saw of all heroes after `after`, up to and including `until`."""

    began: int
    ended: int
    after: int
    until: float
    heroes: dict[int, Hero]

    def of(self, hero_id: int) -> list[Operation]:
        """Return what it says of one hero."""
        if not self.after < hero_id <= self.until:
            return []
        return [Operation(self.began, self.ended, "get", True, {}, self.heroes.get(hero_id))]  # noqa: FBT003


def is_explicable(before: State, after: State, operations: Sequence[Operation]) -> bool:
    """Say whether some serial order of the operations leads from `before` to `after`."""

    @cache
    def search(state: State, pending: frozenset[int]) -> bool:
        if not pending:
            return state == after
        first_end = min(operations[index].ended for index in pending)
        ready = [
            index
            for index in pending
            if operations[index].began < first_end and operations[index].is_possible(state)
        ]
        # What can change nothing may go first: no order is lost by it.
        reads = frozenset(index for index in ready if operations[index].is_read)
        if reads:
            return search(state, pending - reads)
        return any(search(operations[index].outcome(state), pending - {index}) for index in ready)

    return search(before, frozenset(range(len(operations))))


class Load:
    """Random requests, and what came of them."""

    def __init__(self, client: httpx.AsyncClient, chance: random.Random) -> None:
        self.client = client
        self.chance = chance
        self.clock = itertools.count()
        self.latest = 0
        self.operations: defaultdict[int, list[Operation]] = defaultdict(list)
        self.pages: list[Page] = []
        self.given: list[int] = []

    async def request(self) -> None:
        """Send one random request."""
        verbs = {"create": 4, "choose": 3, "patch": 5, "delete": 2, "get": 5, "page": 2, "count": 1}
        [verb] = self.chance.choices([*verbs], [*verbs.values()])
        near = range(max(1, self.latest - 5), self.latest + 6)
        hero_id = self.chance.choice(HOT if self.chance.random() < 0.7 else near)
        await getattr(self, verb)(hero_id)

    async def create(self, _hero_id: int) -> None:
        await self._operate(None, "create", self._fields())

    async def choose(self, hero_id: int) -> None:
        await self._operate(hero_id, "create", self._fields())

    async def patch(self, hero_id: int) -> None:
        fields = self._fields()
        chosen = self.chance.sample([*fields], self.chance.randrange(len(fields) + 1))
        await self._operate(hero_id, "patch", {name: fields[name] for name in chosen})

    async def delete(self, hero_id: int) -> None:
        await self._operate(hero_id, "delete", {})

    async def get(self, hero_id: int) -> None:
        await self._operate(hero_id, "get", {})

    async def page(self, hero_id: int) -> None:
        limit, offset = self.chance.randrange(1, 101), self.chance.choice([0, 0, 3])
        began = next(self.clock)
        response = await self.client.get(
            "/heroes/", params={"after": hero_id, "limit": limit, "offset": offset}
        )
        assert response.status_code == 200
        heroes = {hero.pop("id"): Hero(**hero) for hero in response.json()}
        assert list(heroes) == sorted(heroes)
        after = hero_id if offset == 0 else min(heroes, default=self.latest + 1000) - 1
        until = max(heroes) if len(heroes) == limit else float("inf")
        self.pages.append(Page(began, next(self.clock), after, until, heroes))

    async def count(self, _hero_id: int) -> None:
        response = await self.client.get("/heroes/?count=true")
        total, size = int(response.headers["X-Total-Count"]), len(response.json())
        assert size == min(total, 100)

    async def stored(self) -> dict[int, Hero]:
        """Return every hero, read page by page."""
        heroes: dict[int, Hero] = {}
        following: str | None = "/heroes/?limit=50"
        while following is not None:
            response = await self.client.get(following)
            heroes |= {hero.pop("id"): Hero(**hero) for hero in response.json()}
            following = response.links.get("next", {}).get("url")
        return heroes

    def _fields(self) -> dict[str, Any]:
        # Some heroes are equal, so that answers to equal requests can be confused.
        number = self.chance.choice([0, next(self.clock)])
        age = self.chance.choice([None, number])
        return {"name": f"n{number}", "age": age, "secret_name": f"s{number}"}

    async def _operate(self, hero_id: int | None, verb: str, changes: dict[str, Any]) -> None:
        method = {"create": "POST"}.get(verb, verb.upper())
        path = "/heroes/" if verb == "create" else f"/heroes/{hero_id}"
        body = changes | {"id": hero_id} if verb == "create" else changes
        began = next(self.clock)
        response = await self.client.request(method, path, json=body)
        ended = next(self.clock)
        succeeded = response.status_code == 200
        assert succeeded or response.status_code == (409 if verb == "create" else 404)
        answer: State = None
        if succeeded and verb != "delete":
            hero = response.json()
            answered_id = hero.pop("id")
            assert hero_id in {answered_id, None}
            if hero_id is None:
                self.given.append(answered_id)
            hero_id, answer = answered_id, Hero(**hero)
        if succeeded and verb == "create":
            assert answer == Hero(**changes)
        assert hero_id is not None
        self.latest = max(self.latest, hero_id if answer else 0)
        self.operations[hero_id].append(Operation(began, ended, verb, succeeded, changes, answer))


async def run_wave(load: Load) -> None:
    """Let many clients send requests at once, each one after the other."""

    async def run_client() -> None:
        for _ in range(REQUESTS):
            await load.request()

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(run_client())


def inexplicable(load: Load, before: dict[int, Hero], after: dict[int, Hero]) -> list[int]:
    """Return the ids of the heroes whose answers no serial order explains."""
    return [
        hero_id
        for hero_id in {*before, *after, *load.operations}
        if not is_explicable(
            before.get(hero_id),
            after.get(hero_id),
            load.operations[hero_id] + [seen for page in load.pages for seen in page.of(hero_id)],
        )
    ]


def is_snapshot(page: Page, load: Load) -> bool:
    """Say whether a page has, of the ids that were given in order, none without those before it."""
    touched = {hero_id for hero_id in load.given if len(load.operations[hero_id]) > 1}
    given = [hero_id for hero_id in sorted(load.given) if page.after < hero_id <= page.until]
    has = [hero_id in page.heroes for hero_id in given if hero_id not in touched]
    return has == sorted(has, reverse=True)


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


async def test_a_serial_order_explains_every_answer_under_a_random_load(
    app: FastAPI, settings: Settings, chance: random.Random
) -> None:
    before: dict[int, Hero] = {}
    ever: set[int] = {0}
    async with running(app) as client:
        for _ in range(WAVES):
            load = Load(client, chance)
            load.latest = max(ever)
            await run_wave(load)
            after = await load.stored()
            assert inexplicable(load, before, after) == []
            assert [page for page in load.pages if not is_snapshot(page, load)] == []
            assert len(load.given) == len(set(load.given))
            assert min(load.given) > max(ever)
            ever |= {*load.given, *after}
            before = after
    assert {hero_id: Hero(*fields) for hero_id, *fields in stored(settings)} == before


# The explanation itself: what it must not accept


A, B = Hero("a", None, "s"), Hero("b", None, "s")


def operation(began: int, ended: int, verb: str, answer: State, **changes: object) -> Operation:
    succeeded = answer is not None or verb == "delete"
    return Operation(began, ended, verb, succeeded, changes, answer)


def test_a_lost_write_is_inexplicable() -> None:
    assert not is_explicable(None, None, [operation(0, 1, "create", A)])


def test_a_write_that_nobody_made_is_inexplicable() -> None:
    assert not is_explicable(None, A, [])


def test_two_creates_of_one_hero_are_inexplicable() -> None:
    creates = [operation(0, 9, "create", A), operation(0, 9, "create", B)]
    assert not is_explicable(None, A, creates)


def test_two_deletes_of_one_hero_are_inexplicable() -> None:
    deletes = [operation(0, 9, "delete", None), operation(0, 9, "delete", None)]
    assert not is_explicable(A, None, deletes)


def test_a_read_of_what_was_replaced_before_it_began_is_inexplicable() -> None:
    patch_then_read = [operation(0, 1, "patch", B, name="b"), operation(2, 3, "get", A)]
    assert not is_explicable(A, B, patch_then_read)


def test_a_read_during_a_write_may_see_either() -> None:
    patch_and_reads = [
        operation(0, 3, "patch", B, name="b"),
        operation(1, 4, "get", A),
        operation(1, 4, "get", B),
    ]
    assert is_explicable(A, B, patch_and_reads)


def test_a_change_that_undoes_another_is_inexplicable() -> None:
    both = [
        operation(0, 9, "patch", Hero("b", None, "s"), name="b"),
        operation(0, 9, "patch", Hero("a", 1, "s"), age=1),
    ]
    assert not is_explicable(A, Hero("a", 1, "s"), both)
