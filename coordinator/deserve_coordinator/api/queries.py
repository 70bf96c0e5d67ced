"""What several endpoints read from a request: page cursors and JSON objects."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from deserve_coordinator.api.problems import Problem

__all__ = ["json_object", "page"]


def page(request: web.Request, *, default: int, most: int) -> tuple[str | None, int]:
    """`after` and `limit` of a list request."""
    text = request.query.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Problem(400, f"limit must be a number from 1 to {most}", param="limit", code="invalid_value")
    return request.query.get("after"), int(text)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        value = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body must be a JSON object", code="invalid_json")
    return value
