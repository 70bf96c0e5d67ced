"""Errors in OpenAI's shape, and the middleware that gives every response an x-request-id and every failure a body."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

from deserve_coordinator.errors import BatchRefused
from deserve_text.error_body import error_body

__all__ = ["Problem", "error_response", "problem_middleware", "stamp_request_id"]

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)


class Problem(Exception):
    """A request that is answered with an error (the word is RFC 9457's)."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code


def error_response(status: int, message: str, param: str | None = None, code: str | None = None) -> web.Response:
    return web.json_response(error_body(status, message, param=param, code=code), status=status)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into an error body; what nobody expected is logged with its request id."""
    offered = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = offered if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", offered) else f"req_{secrets.token_hex(12)}"
    try:
        return await handler(request)
    except Problem as problem:
        return error_response(problem.status, problem.message, problem.param, problem.code)
    except BatchRefused as refused:
        return error_response(refused.status, refused.message, refused.param, refused.code)
    except web.HTTPException as failure:
        if failure.status < 400:
            raise
        message = f"{request.method} {request.path}: {failure.reason}"
        return error_response(failure.status, message, code="not_found" if failure.status == 404 else None)
    except Exception:
        log.exception("%s %s failed (%s)", request.method, request.path, request[REQUEST_ID])
        return error_response(500, f"internal error; the log has it under {request[REQUEST_ID]}", code="internal_error")


async def stamp_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` signal: streams get the header too."""
    if REQUEST_ID in request:
        response.headers["x-request-id"] = request[REQUEST_ID]
