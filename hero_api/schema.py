"""The table of heroes, as a SQLite file has it."""

from sqlalchemy import Connection, Integer, inspect

from hero_api.errors import StartError

_COLUMNS = {"id", "name", "age", "secret_name"}


def has_heroes(connection: Connection) -> bool:
    """Say whether there is a table of heroes; raise `StartError` for one that cannot be used."""
    inspector = inspect(connection)
    if not inspector.has_table("hero"):
        return False
    columns = {column["name"]: column for column in inspector.get_columns("hero")}
    needed = {
        name
        for name, column in columns.items()
        if not column["nullable"] and column["default"] is None
    }
    if not columns.keys() >= _COLUMNS or needed - _COLUMNS:
        raise StartError(f"it has a table hero with other columns ({', '.join(sorted(columns))})")
    key = inspector.get_pk_constraint("hero")["constrained_columns"]
    if "hero" not in inspector.get_table_names() or key != ["id"]:
        raise StartError("it has a hero that is no table with the primary key id")
    if not isinstance(columns["id"]["type"], Integer):
        raise StartError("it has a table hero whose id is no INTEGER")
    return True
