"""`CoordinatorClient`: the coordinator's HTTP API, asynchronous, with bounded retries where repeating is harmless.

Speaks OpenAI's Files and Batches and this network's /v1/network. It keeps no state of a batch and prints nothing;
downloading to a file, with resume and digest, is in `deserve_client.download`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from deserve_client.errors import ClientError, InputError, UnreachableError
from deserve_client.settings import Settings

__all__ = ["TERMINAL_STATUSES", "CoordinatorClient", "batch_body"]

TERMINAL_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})

ATTEMPTS = 8
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 8.0
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
INPUT_STATUSES = frozenset({400, 401, 403, 409, 413, 415, 422})
"""The request itself is wrong: nothing was done, and repeating will not help."""
PIECE_BYTES = 1 << 18
MAX_ERROR_BYTES = 1 << 16
PAGE = 100

Json = dict[str, Any]
Sleep = Callable[[float], Awaitable[None]]


class CoordinatorClient:
    """Use as an async context manager.

    Every call raises `UnreachableError` where no answer came, `InputError` where the coordinator calls the request
    wrong, `ClientError` for its other refusals.
    """

    def __init__(
        self, settings: Settings, *, sleep: Sleep = asyncio.sleep, chance: random.Random | None = None
    ) -> None:
        self.base_url = settings.base_url
        self._headers = {"Authorization": f"Bearer {settings.api_key}", "User-Agent": "deserve-client"}
        self._sleep = sleep
        self._chance = chance or random.Random()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> CoordinatorClient:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def upload(self, path: Path, on_progress: Callable[[int], None] = lambda sent_bytes: None) -> Json:
        """Stream `path` as a batch input and return the file object. Not retried.

        `on_progress` gets the bytes handed over so far.
        """

        async def pieces() -> AsyncIterator[bytes]:
            sent = 0
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece
                    sent += len(piece)
                    on_progress(sent)

        with aiohttp.MultipartWriter("form-data") as form:
            purpose = form.append("batch")
            purpose.set_content_disposition("form-data", name="purpose")
            part = form.append(pieces(), {"Content-Type": "application/jsonl"})
            part.set_content_disposition("form-data", name="file", filename=path.name)
        return await self._once("POST", "/files", data=form)

    async def create_batch(
        self,
        input_file_id: str,
        endpoint: str,
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        codecs: Sequence[str] = (),
    ) -> Json:
        """Create a batch over an uploaded file; an idempotency key makes it one batch however often it is retried.

        `codecs` are the wire codecs that it allows besides "raw".
        """
        return await self.create_from(
            batch_body(input_file_id, endpoint, completion_window, metadata, codecs), uuid4().hex
        )

    async def create_from(self, body: Mapping[str, Any], idempotency_key: str) -> Json:
        """The batch that was created with this key, now or before; the body must be the same each time."""
        return await self._retried("POST", "/batches", json=body, headers={"Idempotency-Key": idempotency_key})

    async def batch(self, batch_id: str) -> Json:
        return await self._retried("GET", f"/batches/{_segment(batch_id)}")

    async def cancel(self, batch_id: str) -> Json:
        return await self._retried("POST", f"/batches/{_segment(batch_id)}/cancel")

    async def batches(self, most: int) -> list[Json]:
        """The newest `most` batches, newest first."""
        found: list[Json] = []
        while len(found) < most:
            query = {"limit": str(min(PAGE, most - len(found)))}
            if found:
                query["after"] = str(found[-1]["id"])
            answer = await self._retried("GET", "/batches", params=query)
            found += answer["data"]
            if not answer.get("has_more") or not answer["data"]:
                break
        return found

    async def network(self) -> Json:
        """Nodes and rings of the network, as GET /v1/network tells them."""
        return await self._retried("GET", "/network")

    async def quote(self, input_file_id: str, endpoint: str, max_price: Mapping[str, str] | None) -> Json:
        """What a batch over an uploaded file would cost at most."""
        body: Json = {"input_file_id": input_file_id, "endpoint": endpoint}
        if max_price is not None:
            body["max_price"] = dict(max_price)
        return await self._retried("POST", "/quotes", json=body)

    async def settlement(self) -> Json:
        """The coordinator's account on the ledger, and what it owes whom."""
        return await self._retried("GET", "/settlement")

    async def payment(self, batch_id: str) -> Json:
        """What is charged, paid and due for a batch."""
        return await self._retried("GET", f"/batches/{_segment(batch_id)}/payment")

    async def pay(self, batch_id: str, voucher: Mapping[str, Any]) -> Json:
        """Hand a voucher over; the same one any number of times."""
        return await self._retried("POST", f"/batches/{_segment(batch_id)}/payment", json=dict(voucher))

    async def payment_proof(self, batch_id: str, custom_id: str) -> Json:
        """That a row's result is under the newest results root."""
        path = f"/batches/{_segment(batch_id)}/payment/rows/{quote(custom_id, safe='')}"
        return await self._retried("GET", path)

    async def open_content(self, file_id: str, start: int) -> aiohttp.ClientResponse:
        """One try at the raw content of a file from byte `start`; 200 means from the beginning, 206 from `start`.

        The caller releases the response. Raises what `aiohttp` raises where the connection fails.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        return await self._open("GET", f"/files/{_segment(file_id)}/content", headers=headers)

    async def pause(self, attempt: int, reason: object) -> None:
        """Wait before the next try after `attempt` (from 1) failed ones; raises `UnreachableError` after the last."""
        if attempt >= ATTEMPTS:
            raise UnreachableError(f"cannot connect to {self.base_url}: {reason} ({attempt} tries)")
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (attempt - 1))
        await self._sleep(delay_s * self._chance.uniform(0.5, 1.0))

    async def _open(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("use CoordinatorClient as an async context manager")
        return await self._session.request(method, self.base_url + path, **options)

    async def _once(self, method: str, path: str, **options: Any) -> Json:
        try:
            async with await self._open(method, path, **options) as response:
                return await self._read(response)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise UnreachableError(f"cannot connect to {self.base_url}: {describe(error)}") from error

    async def _retried(self, method: str, path: str, **options: Any) -> Json:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with await self._open(method, path, **options) as response:
                    if response.status not in RETRIED_STATUSES:
                        return await self._read(response)
                    reason = f"HTTP {response.status}"
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                reason = describe(error)
            await self.pause(attempt, reason)

    async def _read(self, response: aiohttp.ClientResponse) -> Json:
        if response.status >= 400:
            raise await refusal(response)
        try:
            value = await response.json(content_type=None)
        except ValueError as error:
            raise ClientError(f"{response.url}: the answer is not JSON: {error}", status=response.status) from error
        if not isinstance(value, dict):
            raise ClientError(f"{response.url}: the answer is no JSON object", status=response.status)
        return value


def batch_body(
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str] | None = None,
    codecs: Sequence[str] = (),
    payment: Mapping[str, Any] | None = None,
) -> Json:
    """The request that creates a batch; `payment` says which job of the ledger pays for it, and at what price."""
    body: Json = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
    if metadata:
        body["metadata"] = dict(metadata)
    service = ({"codecs": list(codecs)} if codecs else {}) | dict(payment or {})
    return body | ({"deserve": service} if service else {})


async def refusal(response: aiohttp.ClientResponse) -> ClientError:
    """The error that an answer with a status of 400 or more stands for, in the coordinator's own words."""
    import json

    text = (await response.content.read(MAX_ERROR_BYTES)).decode(errors="replace")
    try:
        problem = json.loads(text)["error"]
        message = str(problem["message"])
        if problem.get("param"):
            message = f"{problem['param']}: {message}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message = text.strip()[:200] or str(response.reason)
    if response.status in RETRIED_STATUSES:
        return UnreachableError(f"HTTP {response.status}: {message}", status=response.status)
    kind = InputError if response.status in INPUT_STATUSES else ClientError
    return kind(f"the coordinator refuses ({response.status}): {message}", status=response.status)


def describe(error: BaseException) -> str:
    """A failed connection in words; aiohttp's are about its own parts, and some errors have none."""
    if isinstance(error, aiohttp.ClientConnectorError):
        # A host name that is not found has a negative number and words of its own.
        number = error.errno or 0
        return (os.strerror(number) if number > 0 else error.strerror or str(error)).lower()
    return str(error) or {"TimeoutError": "timed out"}.get(type(error).__name__, type(error).__name__)


def _segment(identifier: str) -> str:
    """An id as one path segment. Raises `InputError` for what cannot be an id."""
    if not identifier or len(identifier) > 128 or not all(c.isalnum() or c in "-_" for c in identifier):
        raise InputError(f"{identifier[:64]!r} is no id")
    return identifier
