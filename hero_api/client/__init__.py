"""An asynchronous client of the service, on httpx; the extra `client` brings what it needs."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Self, TypeVar

import httpx
import stamina
from pydantic import BaseModel, TypeAdapter, ValidationError

from hero_api.models import Deleted, HeroCreate, HeroPublic, HeroUpdate

_ANSWERED_WITHIN = 30.0  # seconds: the service itself answers 503 before that
_FIRST_WAIT, _JITTER = 0.1, 0.5  # seconds
_TOO_MANY = 429  # which a gateway answers in the place of the service
_MAY_PASS = {_TOO_MANY, 502, 503, 504}
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_NOT_ANSWERED = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
_HERO, _HEROES = TypeAdapter(HeroPublic), TypeAdapter(list[HeroPublic])
_DELETED, _COUNT = TypeAdapter(Deleted), TypeAdapter(int)

Content = TypeVar("Content")


class HeroClientError(Exception):
    """An answer that is an error: its `status`, its `detail`, and after how long to try again.

    So is one that is not the service's own, such as a page of a proxy, whatever its status is.
    """

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        try:
            self.detail: Any = answer.json()["detail"]
        except (ValueError, LookupError, TypeError):  # it is a proxy's
            self.detail = answer.text or answer.reason_phrase
        wait = answer.headers.get("Retry-After", "")
        self.retry_after = float(wait) if wait.isdecimal() else None
        super().__init__(f"{self.status}: {self.detail}")


class HeroClient:
    """Creates, reads, changes and deletes heroes, with a bounded number of requests at a time.

    `service` is the URL of the service, or an httpx client whose base URL that is, which stays
    open. A request is tried `attempts` times at most, and not after `patience` seconds. Errors
    are `HeroClientError`, or httpx's own where there was no answer.
    """

    def __init__(
        self,
        service: str | httpx.AsyncClient = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        concurrency: int = 100,
        attempts: int = 6,
        patience: float = 60.0,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._is_mine = isinstance(service, str)
        self._http = (
            httpx.AsyncClient(
                base_url=service,
                limits=httpx.Limits(max_keepalive_connections=concurrency),
                timeout=_ANSWERED_WITHIN,
            )
            if isinstance(service, str)
            else service
        )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Not left to httpx, whose pool looks at all of its connections for each that waits.
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = patience
        self._call = stamina.AsyncRetryingCaller(
            attempts, patience, wait_initial=_FIRST_WAIT, wait_jitter=_JITTER
        )

    async def __aenter__(self) -> Self:
        """Connect with the first request."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections, unless they are those of a client that was given."""
        if self._is_mine:
            await self._http.aclose()

    async def create(self, hero: HeroCreate, *, key: str | None = None) -> HeroPublic:
        """Store a hero; with an idempotency `key` this is tried again whatever happened."""
        return _parse(_HERO, await self._send("POST", "heroes/", hero, key))

    async def read(self, hero_id: int) -> HeroPublic:
        """Read one hero."""
        return _parse(_HERO, await self._send("GET", f"heroes/{hero_id}"))

    async def update(self, hero_id: int, changes: HeroUpdate) -> HeroPublic:
        """Change the fields that were set in `changes`, and no others."""
        return _parse(_HERO, await self._send("PATCH", f"heroes/{hero_id}", changes))

    async def delete(self, hero_id: int) -> None:
        """Delete one hero."""
        _parse(_DELETED, await self._send("DELETE", f"heroes/{hero_id}"))

    async def heroes(self, **query: str | int) -> AsyncIterator[HeroPublic]:
        """Yield heroes in id order; filters as in `min_age=18`, and `limit` is the page's size."""
        page: httpx.QueryParams | None = httpx.QueryParams(query)
        while page is not None:
            answer = await self._send("GET", "heroes/", query=page)
            for hero in _parse(_HEROES, answer):
                yield hero
            # Its query alone: where the service is, behind whatever proxy, is known here.
            following = answer.links.get("next", {}).get("url")
            page = httpx.URL(following).params if following else None

    async def count(self, **filters: str | int) -> int:
        """Return how many heroes the filters match."""
        query = httpx.QueryParams(filters).merge({"limit": 0, "count": True})
        answer = await self._send("GET", "heroes/", query=query)
        return _parse(_COUNT, answer, answer.headers.get("X-Total-Count", ""))

    async def _send(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        key: str | None = None,
        query: httpx.QueryParams | None = None,
    ) -> httpx.Response:
        headers = httpx.Headers(self._headers, encoding="utf-8")
        if key is not None:
            headers["Idempotency-Key"] = key
        content = None
        if body is not None:
            content = body.model_dump_json(exclude_unset=True)
            headers["Content-Type"] = "application/json"

        async def attempt() -> httpx.Response:
            # While it waits for the next attempt, a request leaves its slot to others.
            async with self._slots:
                answer = await self._http.request(
                    method, path, params=query, content=content, headers=headers
                )
            if not answer.is_success:
                raise HeroClientError(answer)
            return answer

        is_safe, end = method == "GET" or key is not None, time.monotonic() + self._patience
        return await self._call(partial(_judge, is_safe=is_safe, end=end), attempt)


def _parse(
    kind: TypeAdapter[Content], answer: httpx.Response, content: str | None = None
) -> Content:
    """Return what an answer has in its body, or in `content`, a part of it."""
    try:
        return kind.validate_json(answer.content if content is None else content)
    except ValidationError as error:
        raise HeroClientError(answer) from error


def _judge(error: Exception, *, is_safe: bool, end: float) -> bool | float:
    """Say whether to try again after an error, or after how many seconds."""
    if not isinstance(error, HeroClientError):
        return isinstance(error, _NOT_ANSWERED if is_safe else _NOT_SENT)
    was_refused = error.status == _TOO_MANY or "nothing was" in str(error.detail)
    if error.status not in _MAY_PASS or not (is_safe or was_refused):
        return False
    if error.retry_after is None:
        return True
    wait = error.retry_after + random.uniform(0, _JITTER)  # noqa: S311
    return wait if time.monotonic() + wait < end else False
