"""A page of a list, as the query of a request has it."""

from pydantic import BaseModel, Field

MIN_ID, MAX_ID = -(2**63), 2**63 - 1
MAX_CHOSEN_ID = 2**53 - 1


class Page(BaseModel, frozen=True):
    """Where a page starts, how many rows it has at most, and whether all of them are counted.

    A subclass adds the filters of its table, each of which is None when it was not sent.
    """

    offset: int = Field(default=0, ge=0, le=MAX_ID)
    limit: int = Field(default=100, ge=0, le=100)
    after: int | None = Field(default=None, ge=MIN_ID, le=MAX_ID)
    count: bool = False

    def following(self, after: int) -> dict[str, str]:
        """Return the query of the page that follows the row `after`: the same filters."""
        query = self.model_dump(mode="json", exclude_defaults=True, exclude={"offset"})
        return query | {"limit": self.limit, "after": after}
