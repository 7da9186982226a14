"""Pages of other origins, which call the service from a browser."""

from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.responses import Response


class JSONCORSMiddleware(CORSMiddleware):
    """Starlette's, but for a preflight that is refused: as every error, that is JSON."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight."""
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:  # noqa: PLR2004
            refusal = JSONResponse({"detail": bytes(response.body).decode()})
            response.body = refusal.body
            response.headers.update(refusal.headers)
        return response
