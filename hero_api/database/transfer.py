"""The two ends of a copy: heroes read in the order of their ids, and written in chunks."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from hero_api.database.pages import MAX_ID, MIN_ID

# An id, a name, an age, a secret name. What another program wrote can be of any type.
Row = tuple[int, Any, Any, Any]

SELECT = "SELECT id, name, age, secret_name FROM hero WHERE id BETWEEN {0} AND {0} ORDER BY id"


class End(Protocol):
    """A database that heroes are copied from, or into; what it cannot do is a `StartError`.

    One that only reads shows what was there when it was opened. `last_drawn` is the last id that
    was ever given, where the database knows it; after `finish` none up to it is given again.
    """

    name: str
    identity: object
    largest_age: int
    takes_nul: bool

    def has_heroes(self) -> bool: ...
    def count(self) -> int: ...
    def last_id(self) -> int | None: ...
    def last_drawn(self) -> int: ...
    def rows(self, first: int = MIN_ID, last: int = MAX_ID) -> Iterator[Row]: ...
    def write(self, chunk: Sequence[Row]) -> None: ...
    def finish(self, last_drawn: int) -> None: ...
    def close(self) -> None: ...
