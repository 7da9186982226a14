"""Rows as JSON: as they go into a statement, and as clients read them."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from math import isfinite
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json
from sqlalchemy import Table

from hero_api.database.columns import RENDERED, kind_of
from hero_api.database.statements import BETWEEN, DAMAGED
from hero_api.errors import DamagedRowError, UnfitError

# In JSON, not behind a backslash that another one escapes. PostgreSQL refuses it, and what SQLite
# takes out of JSON ends before it.
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")


class Listed(NamedTuple):
    """A page: a JSON array; after which id the next one starts, if any; the total, if counted."""

    body: str
    next_after: int | None
    total: int | None

    @property
    def lines(self) -> str:
        """The page as JSON Lines."""
        rows = self.body[1:-1]
        return rows and rows.replace(BETWEEN, "\n") + "\n"


class Renderer:
    """Writes rows as `public` has them, where the database does not: floats, dates and times."""

    def __init__(self, table: Table, public: type[BaseModel]) -> None:
        kinds = {kind_of(column) for column in table.columns}
        self.is_databases = kinds <= RENDERED
        self._public = None if self.is_databases else TypeAdapter(public)

    def dump(self, item: BaseModel, *, only_sent: bool = False) -> str:
        """Return an item as JSON; moments in one zone, so that they can be compared as text.

        Raises `UnfitError` for what no engine stores as it is: text with a NUL or with half of a
        surrogate pair, a float that is no number, a moment out of the years of UTC.
        """
        # What the model does not declare, but lets a client send, is stored nowhere.
        undeclared = {*item.model_extra} if item.model_extra else None
        try:
            if self._public is None:
                dumped = item.model_dump_json(exclude_unset=only_sent, exclude=undeclared)
            else:
                values = item.model_dump(exclude_unset=only_sent, exclude=undeclared)
                dumped = to_json({name: _plain(value) for name, value in values.items()}).decode()
        except (ValueError, OverflowError) as error:
            raise UnfitError from error
        # What is cheaper first.
        if r"\u0000" in dumped and _NUL.search(dumped):
            raise UnfitError
        return dumped

    def render(self, body: str | None) -> str | None:
        """Return a row for clients; nothing of one that holds what JSON cannot."""
        if self._public is None or body is None:
            return body
        try:
            return self._public.dump_json(self._public.validate_json(body)).decode()
        except ValidationError:
            return None

    def render_page(
        self, rows: str, next_after: int | None, total: int | None
    ) -> Listed | DamagedRowError:
        """Return a page of rows as JSON."""
        if rows and self._public:
            rows = BETWEEN.join(self.render(row) or DAMAGED for row in rows.split(BETWEEN))
        if DAMAGED in rows:
            return DamagedRowError()
        return Listed(f"[{rows}]", next_after, total)


def array(items: Iterable[str]) -> str:
    """Return JSON of items as an array."""
    return f"[{','.join(items)}]"


def with_fields(fields: str, item: str) -> str:
    """Return the JSON of an item with more fields before its own."""
    return f"{{{fields}{'}' if item == '{}' else ',' + item[1:]}"


def _plain(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(value)
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
