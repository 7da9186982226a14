"""`hero-api copy`: moves the heroes of one database into another, with their ids."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, time
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from sqlalchemy import Table

from hero_api.commands.endpoints import TransferEndpoint, open_to_read, open_to_write
from hero_api.commands.progress import Progress
from hero_api.database.columns import Kind, kind_of
from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.transfer import Row, columns_in_order
from hero_api.errors import StartError
from hero_api.settings import Settings

_CHUNK = 10_000  # heroes that are stored in one transaction
_LARGE = 2_000_000  # characters: of large heroes a chunk has fewer
_STEP = 100  # rows that are compared between two marks of the progress
_PYTHON_TYPES: dict[Kind, tuple[type, ...]] = {
    Kind.TEXT: (str,),
    Kind.INTEGER: (int,),
    Kind.BOOLEAN: (int,),  # which a bool is too
    Kind.FLOAT: (float, int),
    Kind.TIME: (date, time),
}


class Copied(NamedTuple):
    """How many heroes were copied, how many there are, and their SHA-256."""

    copied: int
    heroes: int
    checksum: str


def copy(source: Settings, target: Settings, table: Table, progress: Progress) -> Copied:
    """Copy the rows that the target has not, in the order of their ids, and compare both.

    A target that has others is left as it is. What was copied stays when the copy is stopped at
    any point, and the next one goes on after it. Raises `StartError`, one line.
    """
    with closing(open_to_read(source, table)) as here:
        if not here.has_table():
            reason = f"has no table {table.name}; name the database of the service"
            raise StartError(f"{here.name} {reason}")
        _check_target(here, target, table, progress)
        with closing(open_to_write(target, table)) as there:
            copied = _copy(here, there, table, progress)
            there.finish(here.last_drawn())
    # Opened anew, to see what was written meanwhile.
    with (
        closing(open_to_read(source, table)) as here,
        closing(open_to_read(target, table)) as there,
    ):
        progress.begin("compared", here.count())
        changed = partial(_changed, here.name, there.name)
        heroes, checksum = _compare(here.rows(), there.rows(), progress, changed)
    return Copied(copied, heroes, checksum)


def _check_target(
    here: TransferEndpoint, target: Settings, table: Table, progress: Progress
) -> None:
    """Refuse a target that has other rows than those that a copy would have begun with."""
    if not target.is_postgresql and not target.path.is_file():
        return
    with closing(open_to_read(target, table)) as there:
        if there.identity == here.identity:
            raise StartError(f"{here.name} and {there.name} are the same database; name two")
        last = there.last_id() if there.has_table() else None
        if last is None:
            return
        progress.begin("compared", there.count())
        others = partial(_others, here.name, there.name)
        _compare(here.rows(last=last), there.rows(), progress, others)


def _others(here: str, there: str, hero_id: int, **_: bool) -> str:
    return (
        f"{there} has heroes already, and hero {hero_id} is not the same in {here}: "
        "nothing was copied. Name an empty target, or delete its heroes"
    )


def _copy(here: TransferEndpoint, there: TransferEndpoint, table: Table, progress: Progress) -> int:
    """Copy what follows the last hero that is there; return how many these are."""
    last = there.last_id()
    progress.begin("copied", here.count(), done=there.count())
    rows = here.rows(MIN_ID if last is None else last + 1) if last != MAX_ID else iter(())
    copied = 0
    try:
        for chunk in _chunks(rows, here, there, table):
            there.write(chunk)
            copied += len(chunk)
            progress.advance(len(chunk))
    except StartError as error:
        raise StartError(f"{error}; then run the same command again to go on") from error
    return copied


def _chunks(
    rows: Iterator[Row], here: TransferEndpoint, there: TransferEndpoint, table: Table
) -> Iterator[list[Row]]:
    columns = columns_in_order(table)
    chunk: list[Row] = []
    size = 0
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            reason = _reason_against(column, there, value)
            if reason:
                raise StartError(
                    f"{there.name} cannot store {table.name} {row[0]} of {here.name}, whose "
                    f"{column.name} {reason}: mend or delete it there"
                )
            if isinstance(value, str):
                size += len(value)
        chunk.append(row)
        if len(chunk) == _CHUNK or size >= _LARGE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _reason_against(column: Any, there: TransferEndpoint, value: Any) -> str | None:  # noqa: ANN401
    """Say why the target cannot store a value; nothing where it can, or itself names the row.

    PostgreSQL does so for a number that is too large, and for a text that its index cannot take.
    """
    if value is None:
        return None if column.nullable else "is NULL"
    if not isinstance(value, _PYTHON_TYPES[kind_of(column)]):
        return f"is no {kind_of(column).name.lower()}"
    if isinstance(value, str) and "\0" in value and not there.takes_nul:
        return "has a NUL in its text"
    return None


def _compare(
    ours: Iterator[Row], theirs: Iterator[Row], progress: Progress, reason: Callable[..., str]
) -> tuple[int, str]:
    """Return the count and the checksum of heroes that are the same on both sides.

    Raises `StartError` with the `reason` for the first one that is not.
    """
    checksum = hashlib.sha256()
    count = 0
    for one, other in zip_longest(ours, theirs):
        if one != other:
            hero_id = min(row[0] for row in (one, other) if row is not None)
            raise StartError(reason(hero_id, is_more=other is None))
        checksum.update(repr(one).encode())
        count += 1
        if count % _STEP == 0:
            progress.advance(_STEP)
    progress.advance(count % _STEP)
    return count, checksum.hexdigest()


def _changed(here: str, there: str, hero_id: int, *, is_more: bool) -> str:
    if is_more:
        return (
            f"{here} has more heroes than were copied, from hero {hero_id} on: stop what writes "
            "them, and run the same command again"
        )
    return (
        f"Hero {hero_id} is not the same in {here} and {there}: one of them was written "
        f"meanwhile. Stop what writes it, empty {there}, and copy again"
    )
