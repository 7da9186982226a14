"""The sessions of the application: an ORM's, though most of them only carry a call to its batch."""

import copy

import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_object_session
from sqlmodel import select

from hero_api.models import Hero
from hero_api.testing import running


async def test_a_session_works_as_any_of_the_orm(app: FastAPI) -> None:
    async with running(app) as client:
        async with app.state.database.write_session() as session:
            hero = Hero(name="Deadpond", secret_name="Dive Wilson")
            session.add(hero)
            assert hero in session
            assert async_object_session(hero) == session
            await session.commit()
            await session.refresh(hero)
        async with app.state.database.read_session() as session:
            found = (await session.execute(select(Hero))).scalar_one()
            assert found.name == "Deadpond"
        assert (await client.get(f"/heroes/{hero.id}")).status_code == 200


async def test_a_session_has_what_its_class_has_and_no_more(app: FastAPI) -> None:
    async with running(app):
        session = app.state.database.read_session()
        assert not session.in_transaction()
        with pytest.raises(AttributeError, match="tenant"):
            _ = session.tenant
        with pytest.raises(AttributeError, match="tenant"):
            _ = copy.copy(session).tenant


async def test_what_a_handler_puts_into_its_info_its_events_find_and_no_other_session(
    app: FastAPI,
) -> None:
    async with running(app):
        session = app.state.database.read_session()
        session.info["user"] = "Deadpond"
        assert session.sync_session.info["user"] == "Deadpond"
        session.sync_session.info["role"] = "hero"
        assert session.info["role"] == "hero"
        assert app.state.database.read_session().info.keys().isdisjoint({"user", "role"})
