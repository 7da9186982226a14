"""`hero-api seed`: fills a database with heroes that somebody could have thought of."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import repeat
from typing import Any

from sqlalchemy import Column, Table

from hero_api.commands.endpoints import open_to_write
from hero_api.commands.progress import Progress
from hero_api.database.pages import MAX_CHOSEN_ID
from hero_api.database.transfer import columns_in_order
from hero_api.errors import StartError
from hero_api.settings import Settings

_KINDS, _ANIMALS, _CITIES, _FIRST_NAMES, _LAST_NAMES = map(
    str.split,
    (
        """
        Amber Atomic Blazing Brave Bronze Cobalt Copper Cosmic Crimson Emerald Frozen Gentle
        Ghostly Golden Granite Hidden Iron Ivory Jade Lucky Midnight Mighty Noble Obsidian
        Patient Quantum Restless Rusty Sable Sapphire Scarlet Silent Silver Solar Stormy Swift
        Thunder Velvet Violet Wandering
        """,
        """
        Badger Bat Bear Beetle Bison Cobra Condor Crane Cricket Dolphin Dragonfly Eagle Elk
        Falcon Ferret Fox Gecko Hare Hawk Heron Hornet Jackal Jaguar Kestrel Lark Leopard Lynx
        Mantis Marten Moth Otter Owl Panther Puma Raven Salamander Shark Swan Tiger Viper Wasp
        Wolf Wolverine Wombat
        """,
        """
        Accra Athens Bergen Bogotá Brno Cádiz Cairo Córdoba Cork Dakar Delhi Dublin Genoa Ghent
        Hanoi Izmir Kraków Kyoto Lagos Leeds Lima Lisbon Lyon Málaga Malmö Montréal Nairobi Oslo
        Porto Prague Quito Reykjavík Riga Seoul Split Tbilisi Tromsø Tunis Turin Utrecht
        Valparaíso Vilnius Warsaw York Zagreb Zürich
        """,
        """
        Ada Amir Ana Astrid Ben Bianca Bruno Chloë Dana Elif Emeka Emil Farah Finn Grace Hana
        Hugo Ines Ivo Jack Jana José Kai Laila Leo Lucía Luka Mara Mei Milan Nadia Nils Noor
        Olga Omar Otto Pia Priya Rafael Rosa Samir Sara Selma Tariq Tea Tom Uma Vera Viktor
        Wanda Yara Yusuf Zoë
        """,
        """
        Abara Almeida Andersen Baker Bauer Berg Costa Demir Dubois Eriksen Farkas Fischer Garcia
        Haddad Hansen Horvat Ibrahim Ivanov Jensen Kaya Keller Khan Kim Kowalski Lee Lindqvist
        Lopez Mbeki Meyer Moreau Mori Müller Nakamura Ndiaye Nguyen Novak Okafor Oliveira Osei
        Petrov Popescu Quinn Rossi Santos Sato Schmidt Silva Singh Smith Tanaka Varga Virtanen
        Walker Wang Weber Wilson Yilmaz Zhang
        """,
    ),
)
# Heroes of a transaction: each changes most pages of the index on names, in a large table.
_CHUNK = 50_000
_NO_AGE = 10  # of a hundred heroes

Values = Callable[[random.Random, int], Iterator[Any]]


def seed(  # noqa: PLR0913 - two by name
    settings: Settings,
    table: Table,
    count: int,
    progress: Progress,
    *,
    rng: random.Random,
    replace: bool,
) -> range:
    """Store `count` heroes behind those that are there, or in their place with ids from 1 on.

    Returns their ids. Raises `StartError`, one line.
    """
    values = [values_of(column) for column in columns_in_order(table)[1:]]
    with closing(open_to_write(settings, table)) as there:
        first = 1 if replace else max(there.last_id() or 0, there.last_drawn(), 0) + 1
        last = first + count - 1
        if last > MAX_CHOSEN_ID:
            raise StartError(f"{there.name} has no {count:,} ids left: its last one is {first - 1}")
        progress.begin("seeded", count)
        stored = 0
        try:
            try:
                for start in range(first, last + 1, _CHUNK) or [first]:
                    ids = range(start, min(start + _CHUNK, last + 1))
                    rows = [*zip(ids, *(each(rng, len(ids)) for each in values), strict=True)]
                    # In one transaction: where none can be stored, none is deleted.
                    there.write(rows, clears=replace and start == first)
                    stored += len(ids)
                    progress.advance(len(ids))
            finally:
                there.finish(0)
        except StartError as error:
            raise StartError(f"{error}; {stored:,} heroes were stored until then") from error
    return range(first, last + 1)


def values_of(column: Column[Any]) -> Values:
    """Return what makes values for a column.

    Raises `StartError` for one that needs a value, and of which nothing is known here.
    """
    if column.name in _VALUES:
        return _VALUES[column.name]
    if column.default is not None and column.default.is_scalar:
        value = column.default.arg  # type: ignore[attr-defined]
        return lambda _, count: repeat(value, count)
    if column.nullable:
        return lambda _, count: repeat(None, count)
    raise StartError(f"The column {column.name} needs a value: say in {__name__} which")


def _names(rng: random.Random, count: int) -> Iterator[str]:
    parts = (rng.choices(words, k=count) for words in (_KINDS, _ANIMALS, _CITIES))
    return (f"{kind} {animal} of {city}" for kind, animal, city in zip(*parts, strict=True))


def _secret_names(rng: random.Random, count: int) -> Iterator[str]:
    parts = (rng.choices(words, k=count) for words in (_FIRST_NAMES, _LAST_NAMES))
    return map(" ".join, zip(*parts, strict=True))


def _ages(rng: random.Random, count: int) -> Iterator[int | None]:
    # Most are young, and some do not tell.
    ages: Sequence[int | None] = [None, *range(16, 90)]
    weights = [_NO_AGE, *((100 - _NO_AGE) * 2 * (90 - age) / (74 * 75) for age in range(16, 90))]
    return iter(rng.choices(ages, weights, k=count))


_VALUES: Mapping[str, Values] = {"name": _names, "age": _ages, "secret_name": _secret_names}
