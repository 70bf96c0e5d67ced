"""Between the store's rows and the control protocol's: what a lease says, and what of a report is believed.

Checks everything about a report that needs no database; whether its fence still counts is for the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.money.delivered import shown_tokens
from deserve_coordinator.store.records import FinishedRow, LeasedRecord, LeaseRecord, ReturnedRow
from deserve_network.control_messages import Lease, LeasedRow, RowLog, RowResult
from deserve_network.money_messages import WorkLabel
from deserve_network.schema import Table

__all__ = ["finished_rows", "lease_message", "returned_rows", "row_seed"]

_LOG = Table("row log", {1: RowLog}, max_bytes=32 << 20)


def row_seed(source: str | int, ordinal: int) -> int:
    """The seed of a row that names none, 0 <= seed < 2^63: the same at every attempt, different for every row.

    `source` is the batch id, or the coordinator's own seed where a run is to be repeatable.
    """
    digest = hashlib.sha256(f"{source}/{ordinal}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _leased_row(row: LeasedRecord, lease: int, seed: int | None) -> LeasedRow:
    generated = () if row.log is None else _LOG.decode(row.log).generated
    source = row.batch_id if seed is None else seed
    work = None if row.job_id is None else WorkLabel(row.job_id, row.key, lease)
    return LeasedRow(row.key, row.endpoint, row.body, row_seed(source, row.ordinal), generated, row.codec, work)


def lease_message(record: LeaseRecord, deadline_s: float, seed: int | None = None, *, waiting: int = 0) -> Lease:
    rows = tuple(_leased_row(row, record.lease, seed) for row in record.rows)
    return Lease(record.lease, record.fence, deadline_s, rows, waiting)


def _canonical(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """The same JSON on one line: a newline inside would break the output file. And what it says."""
    try:
        value = json.loads(body)
        if not isinstance(value, dict):
            raise ProtocolViolation("results.body", "not a JSON object")
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(), value
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("results.body", f"not JSON: {error}") from error


def finished_rows(results: Sequence[RowResult]) -> list[FinishedRow]:
    """Raises `ProtocolViolation` for a body that is no JSON object, a status that is none, or negative counts."""
    finished = []
    for result in results:
        if result.status != 200 and not 400 <= result.status <= 599:
            raise ProtocolViolation("results.status", f"{result.status} is neither 200 nor an error")
        for name in ("prompt_tokens", "completion_tokens"):
            if not 0 <= getattr(result, name) <= 1 << 32:
                raise ProtocolViolation(f"results.{name}", "out of range")
        body, value = _canonical(result.body)
        shown, exact = shown_tokens(value)
        finished.append(
            FinishedRow(
                result.row,
                result.lease,
                result.fence,
                result.status,
                body,
                result.prompt_tokens,
                result.completion_tokens,
                shown,
                exact,
            )
        )
    return finished


def returned_rows(logs: Sequence[RowLog]) -> list[ReturnedRow]:
    return [
        ReturnedRow(log.row, log.lease, log.fence, _LOG.encode(log) if log.generated else None, len(log.generated))
        for log in logs
    ]
