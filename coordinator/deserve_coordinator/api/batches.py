"""OpenAI Batches: create, retrieve, list, cancel."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from deserve_coordinator.api.problems import Problem
from deserve_coordinator.api.queries import json_object, list_object, page
from deserve_coordinator.api.service_options import allowed_codecs, payment_options
from deserve_coordinator.batch_lines import ENDPOINTS
from deserve_coordinator.completion_window import window_seconds
from deserve_coordinator.jobs import Jobs
from deserve_coordinator.money.desk import PaymentDesk
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.records import BatchRecord, NewBatch

__all__ = ["BatchesApi", "batch_object"]

_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "deserve"})
_TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def batch_object(batch: BatchRecord, payment: dict[str, Any] | None = None) -> dict[str, Any]:
    """`payment`: what is due, of a batch that somebody pays for."""
    paid = {} if payment is None else {"payment": payment}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": None if batch.errors is None else {"object": "list", "data": batch.errors},
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        **{name: getattr(batch, name) for name in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": batch.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.input_tokens + batch.output_tokens,
        },
        "metadata": batch.metadata,
        "deserve": {"codecs": list(batch.codecs), "codec": batch.codec} | paid,
    }


def _metadata(value: object) -> Mapping[str, str] | None:
    """OpenAI's limits: 16 pairs, keys up to 64 characters, values up to 512."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > 16:
        raise Problem(400, "metadata must be an object of at most 16 pairs", param="metadata", code="invalid_value")
    for key, text in value.items():
        if not 0 < len(key) <= 64 or not isinstance(text, str) or len(text) > 512:
            raise Problem(
                400,
                "metadata keys hold 1 to 64 characters and values are strings of at most 512",
                param=f"metadata.{key[:64]}",
                code="invalid_value",
            )
    return value


class BatchesApi:
    """Handlers of /v1/batches for the one model that is served. `desk`: None where nothing is paid."""

    def __init__(
        self, store: Store, jobs: Jobs, clock: Callable[[], float], model: str, desk: PaymentDesk | None = None
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._clock = clock
        self._model = model
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.list),
            web.get("/v1/batches/{batch_id}", self.retrieve),
            web.post("/v1/batches/{batch_id}/cancel", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        if unknown := sorted(body.keys() - _FIELDS):
            name = unknown[0][:64]
            raise Problem(400, f"unsupported parameter {name!r}", param=name, code="unsupported_parameter")
        endpoint = body.get("endpoint")
        if endpoint not in ENDPOINTS:
            raise Problem(
                400, f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint", code="invalid_value"
            )
        window_s = window_seconds(body.get("completion_window"))
        metadata = _metadata(body.get("metadata"))
        codecs = allowed_codecs(body.get("deserve"))
        payment = payment_options(body.get("deserve"), paid=self._desk is not None)
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= 255:
            raise Problem(400, "Idempotency-Key holds 1 to 255 characters", code="invalid_idempotency_key")
        file_id = body.get("input_file_id")
        if not isinstance(file_id, str):
            raise Problem(400, "input_file_id must be a string", param="input_file_id", code="invalid_value")
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        if key is not None and (earlier := await self._store.batch_by_idempotency_key(key)) is not None:
            # Its input file may be gone by now.
            return await self._created(earlier, digest)
        await self._check_file(file_id)
        now = int(self._clock())
        new = NewBatch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=endpoint,
            model=self._model,
            input_file_id=file_id,
            completion_window=body["completion_window"],
            created_at=now,
            expires_at=now + window_s,
            metadata=metadata,
            request_digest=digest,
            idempotency_key=key,
            codecs=codecs,
        )
        escrow = None if self._desk is None else await self._desk.escrow_for(new, payment)
        batch = await self._store.create_batch(new, escrow)
        self._jobs.wake()
        return await self._created(batch, digest)

    async def _shown(self, batch: BatchRecord) -> dict[str, Any]:
        escrow = None if self._desk is None else await self._desk.escrow(batch.id)
        return batch_object(batch, None if self._desk is None or escrow is None else self._desk.view(escrow))

    async def _created(self, batch: BatchRecord, digest: str) -> web.Response:
        """The batch that this request created, now or before. Raises `Problem` where another request created it."""
        if batch.request_digest != digest:
            raise Problem(409, "this Idempotency-Key was used for another request", code="idempotency_conflict")
        return web.json_response(await self._shown(batch))

    async def _check_file(self, file_id: str) -> None:
        record = await self._store.file(file_id)
        if record is None:
            raise Problem(404, f"no such file: {file_id[:64]}", param="input_file_id", code="file_not_found")
        if record.purpose != "batch":
            raise Problem(400, "the file's purpose is not batch", param="input_file_id", code="invalid_value")

    async def list(self, request: web.Request) -> web.Response:
        after, limit = page(request, default=20, most=100)
        found = await self._store.batches(after=after, limit=limit + 1)
        if found is None:
            raise Problem(404, f"no such batch: {str(after)[:64]}", param="after", code="batch_not_found")
        data = [await self._shown(batch) for batch in found[:limit]]
        return web.json_response(list_object(data, has_more=len(found) > limit))

    async def _find(self, request: web.Request) -> BatchRecord:
        batch_id = request.match_info["batch_id"]
        batch = await self._store.batch(batch_id)
        if batch is None:
            raise Problem(404, f"no such batch: {batch_id[:64]}", param="batch_id", code="batch_not_found")
        return batch

    async def retrieve(self, request: web.Request) -> web.Response:
        return web.json_response(await self._shown(await self._find(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """Ask for the end; rows that are finished stay. Cancelling twice is fine, a batch at its end is a conflict."""
        batch = await self._find(request)
        moved = await self._store.transition(
            batch.id, ("validating", "in_progress"), "cancelling", int(self._clock()), outcome="cancelled"
        )
        current = await self._find(request)
        if not moved and current.status not in ("cancelling", "cancelled"):
            raise Problem(409, f"a batch that is {current.status} cannot be cancelled", code="batch_not_cancellable")
        self._jobs.wake()
        return web.json_response(await self._shown(current))
