"""How errors are answered: each as JSON with a `detail`, as FastAPI does."""

import logging
import traceback
from collections.abc import Sequence
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from hero_api.errors import ContentCodingError, FaultError, ServiceError
from hero_api.web.request_id import request_id

logger = logging.getLogger("hero_api")


def add_exception_handlers(app: FastAPI) -> None:
    """Let `app` answer every error in JSON, also one that nobody foresaw."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(400, _bad_request)
    app.add_exception_handler(405, _method_not_allowed)
    app.add_exception_handler(ClientDisconnect, _client_disconnect)
    app.add_exception_handler(Exception, _unforeseen_error)


def _fault_response(scope: Scope, detail: str, reason: str) -> Response:
    """Log a fault of the service, in one line, and return its answer: a 500 with the line's id."""
    identity = request_id(scope)
    logger.error("request %s: %s %r: %s", identity, scope["method"], scope["path"], reason)
    detail = f"{detail}; the log has it as request {identity}"
    return JSONResponse({"detail": detail}, 500, {"X-Request-ID": identity})


async def _service_error(request: Request, error: Exception) -> Response:
    error = cast(ServiceError, error)
    request.state.error = type(error)  # for the metrics
    if isinstance(error, FaultError):
        return _fault_response(request.scope, error.detail, error.reason)
    return JSONResponse({"detail": error.detail}, error.status, error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    if _coding(request) is not None:
        return await _bad_request(request, error)
    problems = cast(RequestValidationError, error).errors()
    try:
        content = _as_json(problems)
    except (ValueError, RecursionError):
        # The input cannot be written as JSON: lone surrogates, bytes, deep nesting.
        for problem in problems:
            problem.pop("input", None)
            problem.pop("ctx", None)
        content = _as_json(problems)
    return Response(content, 422, media_type="application/json")


def _as_json(problems: Sequence[Any]) -> bytes:
    # FastAPI's encoder alone would take a third of a second for 10,000 bad lines.
    return to_json({"detail": problems}, inf_nan_mode="null", fallback=jsonable_encoder)


async def _bad_request(request: Request, error: Exception) -> Response:
    coding = _coding(request)
    if coding is not None:
        return await _service_error(request, ContentCodingError(coding))
    return await http_exception_handler(request, cast(HTTPException, error))


def _coding(request: Request) -> str | None:
    """Return in what a body is coded that FastAPI could not read."""
    coding = request.headers.get("Content-Encoding") or "identity"
    return None if coding.lower() == "identity" else coding


async def _method_not_allowed(request: Request, error: Exception) -> Response:
    # Starlette names the methods of the first route that matches the path, not of them all.
    routes = request.app.routes
    known = {method for each in iter_route_contexts(routes) for method in each.methods or ()}
    methods = {
        method
        for method in known
        for route in routes
        if route.matches({**request.scope, "method": method})[0] is Match.FULL
    }
    answer = cast(HTTPException, error)
    if methods:  # and not within what is mounted
        methods |= {"HEAD"} if "GET" in methods else set()
        answer = HTTPException(405, answer.detail, {"Allow": ", ".join(sorted(methods))})
    return await http_exception_handler(request, answer)


async def _client_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it


async def _unforeseen_error(request: Request, error: Exception) -> Response:
    """Answer an error that nobody foresaw; Starlette raises it again when this is sent."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
    # The second repr escapes what an exception's own may contain, such as line breaks.
    reason = f"{repr(error)!r} in {where}"
    cause = error.__cause__
    if isinstance(cause, ServiceError):  # such as one amid an answer, which Starlette wraps
        reason = f"{getattr(cause, 'reason', cause.detail)}; then {reason}"
    return _fault_response(request.scope, "Internal Server Error", reason)
