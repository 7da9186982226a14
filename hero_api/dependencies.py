"""What handlers ask for: sessions, ids, pages and the prefix, as `Annotated` aliases.

To let the handlers work on a session of your own, override `get_read_session` and
`get_write_session` with dependencies that return an `AsyncSession` of SQLAlchemy or of SQLModel.
Calls on it wait for each other. A change is committed, and what the session has loaded is fresh
afterwards; nothing closes it. Anything but an `AsyncSession` is answered 500, and `detail` says so.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from hero_api.database.pages import Number
from hero_api.database.sessions import Database, ReadOnlySession, ReadWriteSession
from hero_api.errors import NotRunningError, UnauthorizedError, UnfitKeyError
from hero_api.etags import ANY, tags_in
from hero_api.models import HeroCreate, HeroPage
from hero_api.web.json_lines import read_body
from hero_api.web.prefix import prefix_of

MAX_KEY = 255  # characters


def get_database(request: Request) -> Database:
    """Return the database that the lifespan has opened."""
    try:
        database: Database = request.app.state.database
    except AttributeError:
        raise NotRunningError from None
    return database


# These construct and do not open, so there is nothing to close: no `yield`. What a handler of your
# own leaves open is closed when its response was sent (`web/opened_sessions.py`). They are `async`
# because FastAPI would run a plain function in a thread.
async def get_read_session(request: Request) -> ReadOnlySession:
    """Return a session that reads."""
    return get_database(request).read_session(request.scope)


async def get_write_session(request: Request) -> ReadWriteSession:
    """Return a session that writes."""
    return get_database(request).write_session(request.scope)


async def get_prefix(request: Request) -> str:
    """Return the path under which the service is mounted or proxied, as part of a URL."""
    return prefix_of(request.scope)


async def read_hero_lines(request: Request) -> Mapping[int, HeroCreate]:
    """Return the heroes of a body of JSON Lines, by the numbers of their lines."""
    return await read_body(request, HeroCreate, request.app.state.settings.max_lines)


async def get_if_match(request: Request) -> frozenset[str] | None:
    """Return the tags of which a hero must have one; None where any hero will do."""
    values = request.headers.getlist("If-Match")
    # A missing hero is a 404 with "*" too: a condition counts where there would be a 200.
    tags = tags_in(values, weak=False) if values else {ANY}
    return None if ANY in tags else frozenset(tags)


async def get_idempotency_key(request: Request) -> str | None:
    """Return the key under which a hero is to be stored once; None where there is none."""
    values = request.headers.getlist("Idempotency-Key")
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= MAX_KEY or "\0" in values[0]:
        raise UnfitKeyError
    return values[0]


ReadSession = Annotated[ReadOnlySession, Depends(get_read_session)]
WriteSession = Annotated[ReadWriteSession, Depends(get_write_session)]
HeroId = Annotated[Number, Path()]
Prefix = Annotated[str, Depends(get_prefix)]
IfMatch = Annotated[frozenset[str] | None, Depends(get_if_match)]
IdempotencyKey = Annotated[str | None, Depends(get_idempotency_key)]
PageQuery = Annotated[HeroPage, Query()]
HeroLines = Annotated[Mapping[int, HeroCreate], Depends(read_hero_lines)]


class TokenCheck(HTTPBearer):
    """Lets only requests pass that carry the token, and says so in the OpenAPI document."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._expected = token.encode()

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        """Raise `UnauthorizedError` unless the request carries the token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        # Headers are bytes, which Starlette decodes as Latin-1, whatever they were meant as.
        given = token.strip(" \t").encode("latin-1")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given, self._expected):
            raise UnauthorizedError
