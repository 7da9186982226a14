"""The hero: its table, and what clients send and get."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import BigInteger, Column, Integer
from sqlmodel import Field as TableField
from sqlmodel import SQLModel

from hero_api.database.pages import MAX_CHOSEN_ID, NUMBER, Number, Page

MAX_AGE = 2**31 - 1
MAX_NAME, MAX_SECRET_NAME = 500, 10_000  # characters
_WITHOUT_NUL = r"^[^\x00]*$"  # in every dialect of regular expressions

Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=_WITHOUT_NUL)]
SecretName = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_SECRET_NAME, pattern=_WITHOUT_NUL)
]
Age = Annotated[int, Field(ge=0, le=MAX_AGE), NUMBER]
ChosenId = Annotated[int, Field(ge=1, le=MAX_CHOSEN_ID), NUMBER]


class HeroBase(SQLModel):
    """What is stored and answered of a hero; no constraints: what others wrote is served too."""

    id: int | None = None  # first here, and so in every model and in the table
    name: str = TableField(index=True, sa_column_kwargs={"info": {"longest": MAX_NAME}})
    age: int | None = TableField(default=None, index=True)
    secret_name: str = TableField(sa_column_kwargs={"info": {"longest": MAX_SECRET_NAME}})


class Hero(HeroBase, table=True):
    """The table. AUTOINCREMENT keeps SQLite from giving a deleted hero's id to another."""

    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = TableField(
        default=None,
        # 64 bits on every engine; SQLite's AUTOINCREMENT wants the very word INTEGER.
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    )


class HeroCreate(HeroBase):
    """A hero as a client sends it; an `id` that the client chose is honoured while it is free."""

    __init__ = BaseModel.__init__  # SQLModel's is for tables, and takes three times as long

    id: ChosenId | None = None
    name: Name
    age: Age | None = None
    secret_name: SecretName


class HeroUpdate(SQLModel):
    """The changes to a hero: only the fields that were sent count; `age: null` clears the age."""

    # These defaults are never stored: a factory keeps them out of the OpenAPI document.
    name: Name = Field(default_factory=str)
    age: Age | None = None
    secret_name: SecretName = Field(default_factory=str)


class HeroPage(Page, frozen=True):
    """Which heroes to list, as query parameters. Ages are inclusive."""

    name: Name | None = None
    age: Number | None = None
    min_age: Number | None = None
    max_age: Number | None = None


class HeroPublic(HeroBase):
    """A hero as it is answered."""

    id: int


class Deleted(BaseModel):
    """The answer to a delete."""

    ok: bool = True


class InvalidPart(BaseModel):
    """What does not fit, and where it stands in the request."""

    type: str
    loc: list[str | int]
    msg: str
    input: Any = None
    ctx: dict[str, Any] = {}


class Invalid(BaseModel):
    """The answer to a request that does not fit."""

    detail: str | list[InvalidPart]


class Problem(BaseModel):
    """The answer to a request that could not be served."""

    detail: str
