"""OpenAI Models: the one model of the swarm."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from deserve_coordinator.api.problems import Problem

__all__ = ["ModelsApi"]


class ModelsApi:
    """Handlers of /v1/models. `created` is in Unix seconds."""

    def __init__(self, model: str, created: int, context_length: int) -> None:
        self._model = model
        self._created = created
        self._context_length = context_length

    def routes(self) -> list[web.RouteDef]:
        # Model ids may hold slashes (a Hub id, a directory).
        return [web.get("/v1/models", self.list), web.get("/v1/models/{model:.+}", self.retrieve)]

    def _object(self) -> dict[str, Any]:
        return {
            "id": self._model,
            "object": "model",
            "created": self._created,
            "owned_by": "deserve",
            "max_model_len": self._context_length,
        }

    async def list(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._object()]})

    async def retrieve(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        if model != self._model:
            raise Problem(404, f"no such model: {model[:64]}", param="model", code="model_not_found")
        return web.json_response(self._object())
