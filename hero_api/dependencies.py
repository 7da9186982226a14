"""What handlers ask for: sessions, ids and pages, as `Annotated` aliases.

To let the handlers work on a session of your own, override `get_read_session` and
`get_write_session` with dependencies that return an `AsyncSession` of SQLAlchemy or of SQLModel.
Calls on it wait for each other. A change is committed, and what the session has loaded is fresh
afterwards; nothing closes it. Anything but an `AsyncSession` is answered 500, and `detail` says so.
"""

import secrets
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from hero_api.database.pages import MAX_ID, MIN_ID
from hero_api.database.sessions import ReadOnlySession, ReadWriteSession
from hero_api.errors import UnauthorizedError, UnfitKeyError
from hero_api.etags import ANY, tags_in
from hero_api.models import HeroPage

MAX_KEY = 255  # characters


# These construct and do not open, so there is nothing to close: no `yield`. They are `async`
# because FastAPI would run a plain function in a thread.
async def get_read_session(request: Request) -> ReadOnlySession:
    """Return a session that reads."""
    session: ReadOnlySession = request.app.state.database.read_session()
    return session


async def get_write_session(request: Request) -> ReadWriteSession:
    """Return a session that writes."""
    session: ReadWriteSession = request.app.state.database.write_session()
    return session


async def get_if_match(request: Request) -> frozenset[str] | None:
    """Return the tags of which a hero must have one; None where any hero will do."""
    values = request.headers.getlist("If-Match")
    # One that is not there is a 404 with "*" too: a condition counts where there would be a 200.
    tags = tags_in(values, weak=False) if values else {ANY}
    return None if ANY in tags else frozenset(tags)


async def get_idempotency_key(request: Request) -> str | None:
    """Return the key under which a hero is to be stored once; None where there is none."""
    values = request.headers.getlist("Idempotency-Key")
    if not values:
        return None
    if len(values) > 1 or not 1 <= len(values[0]) <= MAX_KEY:
        raise UnfitKeyError
    return values[0]


ReadSession = Annotated[ReadOnlySession, Depends(get_read_session)]
WriteSession = Annotated[ReadWriteSession, Depends(get_write_session)]
HeroId = Annotated[int, Path(ge=MIN_ID, le=MAX_ID)]
IfMatch = Annotated[frozenset[str] | None, Depends(get_if_match)]
IdempotencyKey = Annotated[str | None, Depends(get_idempotency_key)]
PageQuery = Annotated[HeroPage, Query()]


class TokenCheck(HTTPBearer):
    """Lets only requests pass that carry the token, and says so in the OpenAPI document."""

    def __init__(self, token: str) -> None:
        super().__init__(auto_error=False)
        self._expected = token.encode()

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        """Raise `UnauthorizedError` unless the request carries the token."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        # Headers are bytes, which Starlette decodes as Latin-1, whatever they were meant as.
        given = token.encode("latin-1")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given, self._expected):
            raise UnauthorizedError
