"""What probes ask: is the service alive, is it ready."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from hero_api.answers import ALIVE
from hero_api.dependencies import get_database
from hero_api.errors import BrokenError, ClosingError, LateError, OutcomeUnknownError, RefusedError
from hero_api.storage import AnyStorage

PROBES = "/livez", "/readyz", "/metrics"
READY_WITHIN = 1.0  # seconds


class Status(BaseModel):
    """The answer to a probe."""

    status: Literal["ok"] = "ok"


async def read_livez() -> Status:
    """Say that the process serves."""
    return Status()


async def read_readyz(request: Request) -> Status:
    """Say that the database answers a read and takes a write."""
    # Not by the dependencies: where a test overrides them, the service still has its database.
    database = get_database(request)
    if request.app.state.draining:
        raise ClosingError
    sessions = database.read_session(), database.write_session()
    try:
        async with asyncio.timeout(READY_WITHIN):
            storages: Sequence[AnyStorage] = request.app.state.storages
            checks = (check for each in storages for check in each.check(*sessions))
            await asyncio.gather(*checks)
    except TimeoutError:
        raise LateError from None
    except (OutcomeUnknownError, RefusedError) as error:
        raise BrokenError from error  # a probe has nothing that could be read, or refused to it
    return Status()


async def read_options() -> Response:
    """Answer `OPTIONS *`, which asks nothing, and `OPTIONS /`: haproxy's check by default."""
    return Response(status_code=204, headers={"Allow": "OPTIONS"})


def add_routes(app: FastAPI) -> None:
    """Add the handlers to `app`."""
    get = partial(app.get, tags=["operations"])
    get("/livez", responses=ALIVE)(read_livez)
    get("/readyz", responses=ALIVE)(read_readyz)
    for path in ("*", "/"):
        app.options(path, status_code=204, include_in_schema=False)(read_options)
