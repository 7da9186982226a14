"""The ceiling: FastAPI at its defaults, with constants for answers and nothing behind them.

The same routes and models as the hero API; no session, no middleware, no database.
"""

from typing import Annotated

from fastapi import FastAPI, Path, Query

from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.models import Deleted, HeroCreate, HeroPage, HeroPublic, HeroUpdate

HeroId = Annotated[int, Path(ge=MIN_ID, le=MAX_ID)]
PageQuery = Annotated[HeroPage, Query()]


def _hero(number: int) -> HeroPublic:
    name, secret_name = f"Hero {number}", f"Secret name {number}"
    return HeroPublic(id=number, name=name, age=number % 100, secret_name=secret_name)


HERO = _hero(5000)
PAGE = [_hero(number) for number in range(5000, 5100)]
DELETED = Deleted()

app = FastAPI()


@app.post("/heroes/")
async def create_hero(hero: HeroCreate) -> HeroPublic:  # noqa: ARG001 - it is parsed, no more
    return HERO


@app.get("/heroes/")
async def read_heroes(page: PageQuery) -> list[HeroPublic]:  # noqa: ARG001
    return PAGE


@app.get("/heroes/{hero_id}")
async def read_hero(hero_id: HeroId) -> HeroPublic:  # noqa: ARG001
    return HERO


@app.patch("/heroes/{hero_id}")
async def update_hero(hero_id: HeroId, hero: HeroUpdate) -> HeroPublic:  # noqa: ARG001
    return HERO


@app.delete("/heroes/{hero_id}")
async def delete_hero(hero_id: HeroId) -> Deleted:  # noqa: ARG001
    return DELETED
