"""What can go wrong, as the domain says it: each error has a status and a message."""

from collections.abc import Mapping
from typing import Any


class StartError(Exception):
    """The service cannot start, or a command cannot go on: the message, one line, says why."""


class ServiceError(Exception):
    """An error that a client is answered with: its `status`, and its message as `detail`."""

    status = 500
    headers: dict[str, str] | None = None
    detail: Any = ""

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or self.detail
        super().__init__(self.detail)


class NotFoundError(ServiceError):
    """There is no row of that id in the table of `noun`."""

    status = 404

    def __init__(self, noun: str) -> None:
        super().__init__(f"{noun.capitalize()} not found")


class TakenError(ServiceError):
    """The id that a client chose is taken."""

    status = 409

    def __init__(self, noun: str, row_id: int) -> None:
        super().__init__(f"There is a {noun} of id {row_id} already")


class StaleError(ServiceError):
    """A row is not, or no longer, what the client knows of it."""

    status = 412

    def __init__(self, noun: str) -> None:
        super().__init__(
            f"The {noun} has another ETag than If-Match has; nothing was changed. "
            "Read it before you try again"
        )


class UnfitKeyError(ServiceError):
    """The Idempotency-Key header is no valid key."""

    status = 400
    detail = "An Idempotency-Key is one header of 1 to 255 characters"


class KeyReusedError(ServiceError):
    """The key was sent before, with another body."""

    status = 422
    detail = "This Idempotency-Key came with another body before; nothing was changed"


class DeletedSinceError(ServiceError):
    """What was stored under the key was deleted since, or a part of it, and the answer with it."""

    status = 410

    def __init__(self, noun: str) -> None:
        super().__init__(f"A {noun} of this Idempotency-Key was created, and deleted since")


class RefusedError(ServiceError):
    """A constraint, a trigger or a right of the database refuses this change."""

    status = 409
    detail = "The database refuses this change, by a constraint, a trigger or a right"


class UnfitError(ServiceError):
    """A value does not fit its column of the database."""

    status = 422
    detail = "A value does not fit what the database can store"


class LinesRefusedError(ServiceError):
    """Of rows that were to be stored together, the database refuses some: those of these lines."""

    status = 422

    def __init__(self, refused: Mapping[int, ServiceError]) -> None:
        super().__init__("Lines were refused")
        self.detail = [
            {"type": "refused", "loc": ["body", line], "msg": error.detail}
            for line, error in refused.items()
        ]


class FaultError(ServiceError):
    """A fault of the service or of its table, and nobody else's.

    `reason` is for the log, where that is told more than the client.
    """

    reason = ""

    def __init__(self, detail: str | None = None, reason: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason or self.reason or self.detail


class StatementError(FaultError):
    """The database cannot run a statement of the service, whatever the request."""

    detail = "The database's table is not one that the service can use; nothing was changed"


class NotRunningError(FaultError):
    """The lifespan of the application is not running."""

    detail = (
        "The lifespan of the application is not running, so there is no database. Run it: "
        "`async with hero_api.testing.running(app) as client` for httpx, "
        "`with TestClient(app) as client` for Starlette's, and for an application that mounts "
        "this one `async with app.router.lifespan_context(app)` in its own lifespan"
    )


class NoKeysError(FaultError):
    """The database has no table for keys; the start has said why."""

    detail = "The database cannot keep an Idempotency-Key; nothing was changed"
    reason = "there is no table for idempotency keys: run `hero-api upgrade`, and start again"


class DamagedRowError(FaultError):
    """A row holds what cannot be answered, such as a BLOB for a name."""

    detail = (
        "A stored row cannot be read: it holds values of the wrong type or encoding. "
        "Repair or delete it in the database"
    )


class UnavailableError(ServiceError):
    """The database cannot serve now; nothing was changed."""

    status = 503
    headers = {"Retry-After": "1"}  # noqa: RUF012 - never changed


class OverloadedError(UnavailableError):
    """The request waited for its whole time behind others before it was begun."""

    detail = "Too many requests are waiting; nothing was done. Try again in a second"


class ClosingError(UnavailableError):
    """The service is stopping; this request was not begun."""

    detail = "The service is stopping; nothing was done. Try again in a second"


class LateError(UnavailableError):
    """The deadline passed before the database answered, and nothing was changed."""

    detail = "The database did not answer in time; nothing was changed. Try again"


class OutcomeUnknownError(UnavailableError):
    """The database did not say whether the change was stored."""

    detail = (
        "The database did not answer in time, or failed, while it stored the change; "
        "whether it was stored is unknown. Read it before you try again; "
        "what was sent with an Idempotency-Key can be sent again with it"
    )


class RowLockedError(UnavailableError):
    """Another process holds the lock of this row."""

    detail = (
        "Another process holds the lock of this row; nothing was changed. Try again in a second"
    )


class BusyError(UnavailableError):
    """Another process holds the lock that this change needs."""

    detail = "Another process holds the database's lock; nothing was changed. Try again in a second"


class BrokenError(UnavailableError):
    """The database cannot be read or written at all."""

    detail = (
        "The database cannot be read or written; nothing was changed. "
        "Try again, and see the service's log if it stays so"
    )


class ReplacedError(UnavailableError):
    """The database's file, or SQLite's own beside it, is not the one that was opened."""

    detail = (
        "The database's file, or the -wal or -shm beside it, was deleted or replaced; "
        "nothing was changed. Put it back, or restart the service on what is there now"
    )


class CorruptError(ServiceError):
    """A page of the database's file is damaged, as `tool` can tell; the others are served."""

    status = 503
    headers = UnavailableError.headers

    def __init__(self, tool: str = "hero-api check") -> None:
        super().__init__(
            "The database is damaged where this row is; nothing was changed. "
            f"Run `{tool}`, and restore a backup"
        )


class ContendedError(ServiceError):
    """The database gave up one of two changes that wait for each other; this one can go alone."""

    status = 503
    headers = UnavailableError.headers
    detail = "Another change got in the way of this one; nothing was changed. Try again"


class ContentCodingError(ServiceError):
    """The body is compressed."""

    status = 415
    headers = {"Accept-Encoding": "identity"}  # noqa: RUF012 - never changed

    def __init__(self, coding: str) -> None:
        super().__init__(
            f"The body has the content coding {coding}; it is taken without any (identity)"
        )


class UnauthorizedError(ServiceError):
    """The request does not carry the token."""

    status = 401
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - never changed
    detail = "This needs the header `Authorization: Bearer` with the service's token"


class NoRoomError(UnavailableError):
    """The database's disk or its page limit is full; nothing was changed."""

    status = 507
    detail = (
        "The database has no room left; nothing was changed. "
        "Make room or delete rows, then try again"
    )
