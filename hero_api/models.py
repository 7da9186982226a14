"""The hero: its table, and what clients send and get."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError
from sqlalchemy import BigInteger, Column, Integer
from sqlmodel import Field as TableField
from sqlmodel import SQLModel

from hero_api.database.pages import MAX_ID, MIN_ID, Page

MAX_CHOSEN_ID = 2**53 - 1
MAX_AGE = 2**31 - 1
_WITHOUT_NUL = r"^[^\u0000]*$"


def _no_boolean(value: object) -> object:
    # Pydantic takes true for 1, and "1" and 1.0 too, as clients of the tutorial may send them.
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=_WITHOUT_NUL)]
SecretName = Annotated[
    str, StringConstraints(min_length=1, max_length=10_000, pattern=_WITHOUT_NUL)
]
# The validator stands last: before the bounds it would keep them out of the OpenAPI document.
Age = Annotated[int, Field(ge=0, le=MAX_AGE), BeforeValidator(_no_boolean)]
ChosenId = Annotated[int, Field(ge=1, le=MAX_CHOSEN_ID), BeforeValidator(_no_boolean)]


class Hero(SQLModel, table=True):
    """The table. AUTOINCREMENT keeps SQLite from giving a deleted hero's id to another."""

    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = TableField(
        default=None,
        # 64 bits on every engine; SQLite's AUTOINCREMENT wants the very word INTEGER.
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    )
    name: str = TableField(index=True)
    age: int | None = TableField(default=None, index=True)
    secret_name: str


class HeroCreate(BaseModel):
    """A hero as a client sends it; an `id` that the client chose is honoured while it is free."""

    id: ChosenId | None = None
    name: Name
    age: Age | None = None
    secret_name: SecretName


class HeroUpdate(BaseModel):
    """The changes to a hero: only the fields that were sent count; `age: null` clears the age."""

    # These defaults are never stored: a factory keeps them out of the OpenAPI document.
    name: Name = Field(default_factory=str)
    age: Age | None = None
    secret_name: SecretName = Field(default_factory=str)


class HeroPage(Page, frozen=True):
    """Which heroes to list, as query parameters. Ages are inclusive."""

    name: Name | None = None
    min_age: int | None = Field(default=None, ge=MIN_ID, le=MAX_ID)
    max_age: int | None = Field(default=None, ge=MIN_ID, le=MAX_ID)


class HeroPublic(BaseModel):
    """A hero as it is answered. No constraints: a row that someone else wrote is served too."""

    id: int
    name: str
    age: int | None
    secret_name: str


class Deleted(BaseModel):
    """The answer to a delete."""

    ok: bool = True


class Problem(BaseModel):
    """The answer to a request that could not be served."""

    detail: str
