"""The hero service with Litestar and advanced-alchemy on aiosqlite: WAL, each commit synced."""
# mypy: ignore-errors
# Litestar is no dependency of the project: its types are not there where the checker runs.

import os
from typing import Annotated

from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import (
    SQLAlchemyAsyncConfig,
    SQLAlchemyDTO,
    SQLAlchemyDTOConfig,
    SQLAlchemyPlugin,
    repository,
)
from advanced_alchemy.filters import LimitOffset
from litestar import Litestar, delete, get, post
from litestar.dto import DTOData
from litestar.params import Parameter
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column


class Hero(BigIntBase):
    __tablename__ = "hero"

    name: Mapped[str] = mapped_column(index=True)
    age: Mapped[int | None] = mapped_column(index=True, default=None)
    secret_name: Mapped[str]


class HeroRepository(repository.SQLAlchemyAsyncRepository[Hero]):
    model_type = Hero


class HeroCreate(SQLAlchemyDTO[Hero]):
    config = SQLAlchemyDTOConfig(exclude={"id"})


class HeroPublic(SQLAlchemyDTO[Hero]):
    pass


engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['DATABASE_FILE']}")


@event.listens_for(engine.sync_engine, "connect")
def set_pragmas(connection, _entry) -> None:  # noqa: ANN001
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


@post("/heroes/", dto=HeroCreate, return_dto=HeroPublic)
async def create_hero(data: DTOData[Hero], db_session: AsyncSession) -> Hero:
    return await HeroRepository(session=db_session).add(data.create_instance(), auto_commit=True)


@get("/heroes/", return_dto=HeroPublic)
async def read_heroes(
    db_session: AsyncSession, offset: int = 0, limit: Annotated[int, Parameter(le=100)] = 100
) -> list[Hero]:
    page = LimitOffset(limit=limit, offset=offset)
    return await HeroRepository(session=db_session).list(page, order_by=(Hero.id, False))


@get("/heroes/{hero_id:int}", return_dto=HeroPublic)
async def read_hero(hero_id: int, db_session: AsyncSession) -> Hero:
    return await HeroRepository(session=db_session).get(hero_id)


@delete("/heroes/{hero_id:int}")
async def delete_hero(hero_id: int, db_session: AsyncSession) -> None:
    await HeroRepository(session=db_session).delete(hero_id, auto_commit=True)


app = Litestar(
    [create_hero, read_heroes, read_hero, delete_hero],
    plugins=[SQLAlchemyPlugin(SQLAlchemyAsyncConfig(engine_instance=engine, create_all=True))],
)
