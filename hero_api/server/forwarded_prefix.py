"""The path under which a proxy says that it has the service."""

from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from hero_api.settings import ROOT_PATH

_HEADER = b"x-forwarded-prefix"


class ForwardedPrefixMiddleware(ProxyHeadersMiddleware):
    """Heeds the prefix that a proxy says it took off; uvicorn's class knows whom to trust.

    A prefix that is no path counts no more than one from anybody else.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Serve one request."""
        host, *_ = scope.get("client") or (None,)
        if scope["type"] == "http" and host in self.trusted_hosts:
            sent = [value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER]
            prefix = ", ".join(sent)
            if prefix and ROOT_PATH.fullmatch(prefix) and scope["path"].startswith("/"):
                scope |= {"root_path": prefix, "path": prefix + scope["path"]}
        await self.app(scope, receive, send)
