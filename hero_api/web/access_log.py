"""A line in the log for each request."""

import logging
from collections.abc import Awaitable
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero_api.web.request_id import request_id

logger = logging.getLogger("hero_api.access")


class AccessLogMiddleware:
    """Logs each request when it is answered, and gives its answer the id that the line has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity, status, begun = request_id(scope), 500, perf_counter()

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [each for each in message.get("headers", ()) if each[0] != b"x-request-id"]
                message["headers"] = [*others, (b"x-request-id", identity.encode())]
            return send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            request = {
                # Quoted, since a client may send a line break, or any name to a proxy.
                "client": quote((scope.get("client") or ("-",))[0], safe=":"),
                "method": quote(scope["method"]),
                "path": quote(scope["path"]),
                "status": status,
                "seconds": round(perf_counter() - begun, 6),
                "request_id": identity,
            }
            line = "%(client)s %(method)s %(path)s %(status)d %(seconds).6f s %(request_id)s"
            logger.info(line, request, extra={"request": request})
