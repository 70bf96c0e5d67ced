"""What an operator looks at: /healthz and /metrics without a key, /v1/network with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

__all__ = ["OperationsApi"]


class OperationsApi:
    """`describe` gives the body of /v1/network as the contract of `deserve_coordinator.fleet_view` has it."""

    def __init__(self, describe: Callable[[], dict[str, Any]], registry: CollectorRegistry) -> None:
        self._describe = describe
        self._registry = registry

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.health),
            web.get("/metrics", self.metrics),
            web.get("/v1/network", self.network),
        ]

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def network(self, request: web.Request) -> web.Response:
        return web.json_response(self._describe())
