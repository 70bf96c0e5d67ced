"""Puts the handlers together into one aiohttp application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from aiohttp import web

from deserve_coordinator.api.auth import key_middleware
from deserve_coordinator.api.problems import problem_middleware, stamp_request_id

__all__ = ["Routes", "build_application"]

_LARGEST_JSON_BODY = 1 << 20


class Routes(Protocol):
    def routes(self) -> list[web.RouteDef]: ...


def build_application(apis: Iterable[Routes], api_key: str) -> web.Application:
    """Error shape outermost, then the key, then the handlers. Bodies that are read whole hold at most 1 MiB."""
    application = web.Application(
        middlewares=[problem_middleware, key_middleware(api_key)], client_max_size=_LARGEST_JSON_BODY
    )
    application.on_response_prepare.append(stamp_request_id)
    for api in apis:
        application.add_routes(api.routes())
    return application
