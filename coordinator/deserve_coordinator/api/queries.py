"""What several endpoints share: page cursors and JSON objects read from a request, and a page as it is answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from deserve_coordinator.api.problems import Problem

__all__ = ["json_object", "list_object", "page"]


def page(request: web.Request, *, default: int, most: int) -> tuple[str | None, int]:
    """`after` and `limit` of a list request."""
    text = request.query.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Problem(400, f"limit must be a number from 1 to {most}", param="limit", code="invalid_value")
    return request.query.get("after"), int(text)


def list_object(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """One page as OpenAI shows it; every item has an `id`."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        value = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body must be a JSON object", code="invalid_json")
    return value
