"""A page of a list, as the query of a request has it."""

from typing import Annotated
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticKnownError

MIN_ID, MAX_ID = -(2**63), 2**63 - 1
# Ids go on from the largest, and JavaScript reads them exactly up to 2**53.
MAX_CHOSEN_ID = 2**52


def _is_a_number(value: object) -> object:
    """Refuse what Pydantic takes for an integer and others do not: true, "1_000", "1.0", " +1"."""
    if isinstance(value, bool):
        raise PydanticKnownError("int_type")
    if isinstance(value, str) and not value.removeprefix("-").isdecimal():
        raise PydanticKnownError("int_parsing")
    return value


# It stands last: before the bounds it would keep them out of the OpenAPI document.
NUMBER = BeforeValidator(_is_a_number)
# Any number of 64 bits, be it an id or what a column is compared with.
Number = Annotated[int, Field(ge=MIN_ID, le=MAX_ID), NUMBER]
_PLACE = {"offset", "limit", "after"}


class Page(BaseModel, frozen=True):
    """Where a page starts, how many rows it has at most, and whether all of them are counted.

    A subclass adds the filters of its table, each of which is None when it was not sent.
    """

    offset: Annotated[int, Field(ge=0, le=MAX_ID), NUMBER] = 0
    limit: Annotated[int, Field(ge=0, le=100), NUMBER] = 100
    after: Number | None = None
    count: bool = False

    def following(self, after: int) -> str:
        """Return the query of the page that follows the row `after`: the same filters."""
        query = f"limit={self.limit}&after={after}"
        if self.model_fields_set <= _PLACE:
            return query
        filters = self.model_dump(mode="json", exclude_defaults=True, exclude={*_PLACE})
        return f"{urlencode(filters)}&{query}" if filters else query
