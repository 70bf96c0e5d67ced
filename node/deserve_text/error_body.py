"""OpenAI's error object, as the API, a refused row and a failed row all show it."""

from __future__ import annotations

from typing import Any

__all__ = ["error_body"]


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`; `type` follows from the HTTP status, an empty `param` is null."""
    return {"error": {"message": message, "type": _type_of(status), "param": param or None, "code": code}}


def _type_of(status: int) -> str:
    if status == 401:
        return "authentication_error"
    return "invalid_request_error" if status < 500 else "server_error"
