"""The ceiling: FastAPI at its defaults, with the tutorial's signatures and constants for answers.

No session, no middleware, no database.
"""

from typing import Annotated

from fastapi import FastAPI, Query
from sqlmodel import SQLModel


class HeroBase(SQLModel):
    name: str
    age: int | None = None


class HeroPublic(HeroBase):
    id: int
    secret_name: str


class HeroCreate(HeroBase):
    secret_name: str


class HeroUpdate(HeroBase):
    name: str | None = None  # type: ignore[assignment]  # as the tutorial has it
    age: int | None = None
    secret_name: str | None = None


def _hero(number: int) -> HeroPublic:
    name, secret_name = f"Hero {number}", f"Secret name {number}"
    return HeroPublic(id=number, name=name, age=number % 100, secret_name=secret_name)


HERO = _hero(5000)
PAGE = [_hero(number) for number in range(5000, 5100)]

app = FastAPI()


@app.post("/heroes/")
async def create_hero(hero: HeroCreate) -> HeroPublic:  # noqa: ARG001 - it is parsed, no more
    return HERO


@app.get("/heroes/")
async def read_heroes(
    offset: int = 0,  # noqa: ARG001
    limit: Annotated[int, Query(le=100)] = 100,  # noqa: ARG001
) -> list[HeroPublic]:
    return PAGE


@app.get("/heroes/{hero_id}")
async def read_hero(hero_id: int) -> HeroPublic:  # noqa: ARG001
    return HERO


@app.patch("/heroes/{hero_id}")
async def update_hero(hero_id: int, hero: HeroUpdate) -> HeroPublic:  # noqa: ARG001
    return HERO


@app.delete("/heroes/{hero_id}")
async def delete_hero(hero_id: int) -> dict[str, bool]:  # noqa: ARG001
    return {"ok": True}
