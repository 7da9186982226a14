"""A ledger of what clients were told: what may be in the database, and what must not be."""

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Hero(NamedTuple):
    """What a hero holds."""

    name: str
    age: int | None
    secret_name: str


State = Hero | None
"""What is stored under an id: a hero, or none."""


@dataclass(eq=False)
class Change:
    """A change that was asked for: of the hero `hero_id`, or of one that gets its id by it."""

    hero_id: int | None
    after: State
    before: frozenset[State] = frozenset()


class Verdict(NamedTuple):
    """What is wrong with what is stored, one line for each hero."""

    lost: list[str]
    strays: list[str]


class Ledger:
    """Keeps what each hero may be, by what clients were told.

    A change that was begun and not settled may have happened or not. One hero has one change at a
    time; no two heroes that are created are equal.
    """

    def __init__(self) -> None:
        self.heroes: dict[int, frozenset[State]] = {}
        self.tally: Counter[str] = Counter()
        self._nameless: set[State] = set()
        self._open: set[Change] = set()

    def begin(self, change: Change) -> None:
        """Note a change before it is asked for: from now on, it may have happened."""
        self._open.add(change)
        if change.hero_id is None:
            self._nameless.add(change.after)
        else:
            change.before = self.heroes.get(change.hero_id, frozenset({None}))
            self.heroes[change.hero_id] = change.before | {change.after}

    def acknowledge(self, change: Change, hero_id: int) -> None:
        """Note that the change has happened, to the hero `hero_id`."""
        self._settle(change, "acknowledged")
        self.heroes[hero_id] = frozenset({change.after})

    def refuse(self, change: Change) -> None:
        """Note that the change has not happened, and will not."""
        self._settle(change, "refused")
        if change.hero_id is not None:
            self.heroes[change.hero_id] = change.before

    def leave_unknown(self, change: Change) -> None:
        """Note that nobody knows whether the change has happened."""
        self._open.remove(change)
        self.tally["unknown"] += 1

    def forget(self, hero_id: int) -> None:
        """Drop a hero that is deleted: it must not be there, then."""
        assert self.heroes.pop(hero_id) == {None}

    def refuse_unanswered(self) -> None:
        """Note that what was not answered has not happened."""
        for change in [*self._open]:
            self.refuse(change)

    def known(self) -> dict[int, State]:
        """Return the heroes, and the ids without one, that can be in one state only."""
        certain = {hero_id: states for hero_id, states in self.heroes.items() if len(states) == 1}
        return {hero_id: next(iter(states)) for hero_id, states in certain.items()}

    def check(self, stored: dict[int, Hero]) -> Verdict:
        """Compare with what is stored; what was unknown is known then.

        `lost` is what was acknowledged and is not stored so; `strays` are what nobody was promised,
        or what was asked for once and is stored twice.
        """
        for change in [*self._open]:
            self.leave_unknown(change)
        lost = [
            f"hero {hero_id} is {stored.get(hero_id)}, and may be {[*states]}"
            for hero_id, states in self.heroes.items()
            if stored.get(hero_id) not in states
        ]
        new = {hero_id: hero for hero_id, hero in stored.items() if hero_id not in self.heroes}
        times = Counter(new.values())
        strays = [
            f"hero {hero_id} is {hero}, which was refused, or is stored twice"
            for hero_id, hero in new.items()
            if hero not in self._nameless or times[hero] > 1
        ]
        self._nameless.clear()
        self.heroes = {hero_id: frozenset({hero}) for hero_id, hero in stored.items()}
        return Verdict(lost, strays)

    def _settle(self, change: Change, outcome: str) -> None:
        self._open.remove(change)
        self.tally[outcome] += 1
        if change.hero_id is None:
            self._nameless.discard(change.after)


def stored_heroes(file: Path) -> dict[int, Hero]:
    """Read every hero straight from the file."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT id, name, age, secret_name FROM hero")
        return {hero_id: Hero(*fields) for hero_id, *fields in rows}


def integrity(file: Path) -> str:
    """Return what SQLite says of the file: `ok`."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        [said] = connection.execute("PRAGMA integrity_check").fetchone()
        return str(said)
