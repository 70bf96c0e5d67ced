"""The API key: made on the first start, compared in constant time, asked for under /v1 only."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from deserve_coordinator.api.problems import Handler, Problem
from deserve_process.secret_file import read_secret

__all__ = ["OPEN_PREFIX", "key_middleware", "load_or_create_key"]

OPEN_PREFIX = "/v1/settlement/"
"""Proofs of what is owed, for those who are owed."""


def load_or_create_key(path: Path) -> str:
    """The key in `path`; where there is none, a new random one is written with mode 0600.

    Raises `SecretUnusable`.
    """
    if path.exists():
        return read_secret(path)
    key = f"sk-deserve-{secrets.token_urlsafe(32)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key


def key_middleware(key: str) -> Middleware:
    """Refuse requests under /v1 that do not carry `Authorization: Bearer <key>`, `OPEN_PREFIX` excepted."""
    expected = hashlib.sha256(key.encode()).digest()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1") and not request.path.startswith(OPEN_PREFIX):
            scheme, _, offered = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not offered:
                raise Problem(401, "send the API key as `Authorization: Bearer KEY`", code="missing_api_key")
            # Digests of equal length: the comparison tells nothing about the length of the key either.
            given = hashlib.sha256(offered.strip().encode(errors="surrogateescape")).digest()
            if not hmac.compare_digest(given, expected):
                raise Problem(401, "incorrect API key", code="invalid_api_key")
        return await handler(request)

    return check
