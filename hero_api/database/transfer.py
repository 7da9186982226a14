"""What the endpoints of a transfer share: rows are read in the order of their ids, id first.

An endpoint that only reads shows what was there when it was opened. Its `last_drawn` is the last
id that was ever given, where the database knows it; after `finish` none up to it is given again.
What an endpoint cannot do is a `StartError`.
"""

from typing import Any

from sqlalchemy import Column, Select, Table, bindparam, select

# The values of a table's columns, the id first. What another program wrote can be of any type.
Row = tuple[Any, ...]


def columns_in_order(table: Table) -> list[Column[Any]]:
    """Return the columns, the id first."""
    return [table.c.id, *(column for column in table.columns if column is not table.c.id)]


def in_order(table: Table) -> Select[Any]:
    """Return what selects the rows with ids from `first` to `last`."""
    between = table.c.id.between(bindparam("first"), bindparam("last"))
    return select(*columns_in_order(table)).where(between).order_by(table.c.id)
