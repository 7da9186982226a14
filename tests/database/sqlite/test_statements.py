"""What SQLite does for a page: in steps of its virtual machine, or as it plans to."""

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Table

from hero_api.database.sqlite.statements import SQLiteStatements
from hero_api.database.statements import Filter, Shape
from hero_api.models import Hero

SMALL, LARGE = 3_000, 60_000  # rows; a page of the most that are sorted takes as many steps of both
AGES = 80
FILTERS = {"least": Filter("age", ">="), "most": Filter("age", "<=")}
TABLE: Table = Hero.__table__  # type: ignore[attr-defined]
PAGE = SQLiteStatements(TABLE, FILTERS).pages((Shape(("least", "most", "after"), counts=False),))


def table_of(heroes: int) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE hero (id INTEGER PRIMARY KEY, name, age, secret_name)")
    connection.execute("CREATE INDEX ix_hero_age ON hero (age)")
    rows = ((number % AGES,) for number in range(heroes))
    connection.executemany("INSERT INTO hero (name, age, secret_name) VALUES ('?', ?, '?')", rows)
    return connection


def steps(connection: sqlite3.Connection, least: int, most: int, after: int) -> int:
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    connection.set_progress_handler(count, 1)
    asked = {"least_0": least, "most_0": most, "after_0": after, "limit_0": 100, "offset_0": 0}
    connection.execute(PAGE, asked).fetchall()
    connection.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize(
    ("least", "most"),
    [(0, AGES), (0, AGES // 2), (AGES + 1, AGES + 9), (-9, -1), (AGES // 2, AGES // 2 + 9)],
    ids=["of all", "of half of them", "above all", "below all", "of some"],
)
@pytest.mark.parametrize("place", [0.0, 0.5, 0.9])
def test_a_page_of_a_range_takes_no_longer_in_a_larger_table(
    least: int, most: int, place: float
) -> None:
    with closing(table_of(SMALL)) as small, closing(table_of(LARGE)) as large:
        few = steps(small, least, most, int(place * SMALL))
        assert steps(large, least, most, int(place * LARGE)) < 2 * few + 5_000


@pytest.mark.parametrize("is_stale", [False, True])
@pytest.mark.parametrize("place", [Shape((), counts=False), Shape(("after",), counts=False)])
def test_the_rows_of_a_page_come_in_the_order_of_their_ids_whatever_index_has_them(
    place: Shape, *, is_stale: bool
) -> None:
    with closing(table_of(SMALL)) as connection:
        connection.execute("CREATE INDEX covering ON hero (age, secret_name, name, id)")
        connection.execute("ANALYZE")
        if is_stale:  # the index seems so small that to walk along it is cheaper than to search
            connection.execute("UPDATE sqlite_stat1 SET stat = '2 1 1 1 1 sz=5'")
            connection.execute("ANALYZE sqlite_schema")
        asked = {"offset_0": 1, "limit_0": 100, "after_0": 1}
        statement = SQLiteStatements(TABLE, FILTERS).pages((place,))
        plan = [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", asked)]
    assert "SEARCH hero USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in plan
