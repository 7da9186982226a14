"""The two endpoints of a transfer: rows read in the order of their ids, and written in chunks."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import Select, Table, bindparam, select

from hero_api.database.pages import MAX_ID, MIN_ID

# The values of a table's columns, the id first. What another program wrote can be of any type.
Row = tuple[Any, ...]


class TransferEndpoint(Protocol):
    """A table that rows are copied from, or into; what it cannot do is a `StartError`.

    One that only reads shows what was there when it was opened. `last_drawn` is the last id that
    was ever given, where the database knows it; after `finish` none up to it is given again.
    """

    name: str
    identity: object
    has_small_integers: bool
    takes_nul: bool

    def has_table(self) -> bool: ...
    def count(self) -> int: ...
    def last_id(self) -> int | None: ...
    def last_drawn(self) -> int: ...
    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]: ...
    def clear(self) -> None: ...
    def write(self, chunk: Sequence[Row]) -> None: ...
    def finish(self, last_drawn: int) -> None: ...
    def close(self) -> None: ...


def in_order(table: Table) -> Select[Any]:
    """Return what selects the rows with ids from `first` to `last`, the id first."""
    columns = [table.c.id, *(column for column in table.columns if column is not table.c.id)]
    between = table.c.id.between(bindparam("first"), bindparam("last"))
    return select(*columns).where(between).order_by(table.c.id)


def names_in_order(table: Table) -> list[str]:
    """Return the names of the columns, as `in_order` has them."""
    return [column.name for column in in_order(table).selected_columns]
