"""Questions to a journal's HTTP server: asked again a few times where nobody answers, and refused as the server says.

Every request may be repeated: a signed call takes effect once.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

from deserve_ledger.errors import ChainUnreachable, InvalidField, Refused

__all__ = ["JournalHttp"]

_ATTEMPTS = 4
_TIMEOUT = aiohttp.ClientTimeout(total=20.0)


class JournalHttp:
    """`url` is where `server.journal_application` is mounted; the session stays its maker's.

    After a failure it pauses, `pause_s` at first and then twice as long each time, less up to half at random.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, pause_s: float = 0.4) -> None:
        self._session = session
        self._pause_s = pause_s
        self._url = url.rstrip("/")

    async def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that is answered. Raises `Refused`, `InvalidField` and `ChainUnreachable`."""
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
            try:
                async with self._session.request(method, self._url + path, timeout=_TIMEOUT, **request) as response:
                    if response.status < 500:
                        return _answer(response.status, await response.json())
                    problem = f"status {response.status}"
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = str(error) or type(error).__name__
        raise ChainUnreachable(f"the journal at {self._url} does not answer: {problem}")


def _answer(status: int, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidField("answer", "is no JSON object")
    if "refused" in body:
        raise Refused(str(body["refused"]))
    if status >= 400:
        raise InvalidField("request", str(body.get("invalid", status)))
    return body
