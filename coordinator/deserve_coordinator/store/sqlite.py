"""The store on one SQLite file: each method of `Store` as one read or one durable write of `Database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deserve_coordinator.money.tariff import StageTerms
from deserve_coordinator.store import batch_queries, escrow_queries, row_queries
from deserve_coordinator.store.audits import AuditStore
from deserve_coordinator.store.database import Database
from deserve_coordinator.store.money import MoneyStore
from deserve_coordinator.store.money_records import NewEscrow
from deserve_coordinator.store.records import (
    Backlog,
    BatchRecord,
    FileRecord,
    FinishCounts,
    FinishedRow,
    LeaseRecord,
    NewBatch,
    NewRow,
    ReturnedRow,
    RowOutcome,
)

__all__ = ["SqliteStore"]


class SqliteStore:
    """Implements `Store`. Raises `StoreError` where the file cannot be opened or a commit fails."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self.money = MoneyStore(self._database)
        self.audits = AuditStore(self._database)

    async def add_file(self, record: FileRecord) -> None:
        await self._database.write(lambda c: batch_queries.add_file(c, record))

    async def file(self, file_id: str) -> FileRecord | None:
        return await self._database.read(lambda c: batch_queries.file(c, file_id))

    async def files(
        self, *, after: str | None, limit: int, purpose: str | None, ascending: bool
    ) -> list[FileRecord] | None:
        return await self._database.read(lambda c: batch_queries.files(c, after, limit, purpose, ascending))

    async def delete_file(self, file_id: str) -> str | None:
        return await self._database.write(lambda c: batch_queries.delete_file(c, file_id))

    async def create_batch(self, new: NewBatch, escrow: NewEscrow | None = None) -> BatchRecord:
        """Raises `BatchRefused` where the escrow cannot be had: then there is no batch either."""

        def create(c: sqlite3.Connection) -> BatchRecord:
            record = batch_queries.create_batch(c, new)
            if escrow is not None and record.id == new.id:
                escrow_queries.create(c, escrow)
            return record

        return await self._database.write(create)

    async def batch(self, batch_id: str) -> BatchRecord | None:
        return await self._database.read(lambda c: batch_queries.batch(c, batch_id))

    async def batch_by_idempotency_key(self, key: str) -> BatchRecord | None:
        return await self._database.read(lambda c: batch_queries.batch_by_idempotency_key(c, key))

    async def batches(self, *, after: str | None, limit: int) -> list[BatchRecord] | None:
        return await self._database.read(lambda c: batch_queries.batches(c, after, limit))

    async def batches_with_status(self, *statuses: str) -> list[BatchRecord]:
        return await self._database.read(lambda c: batch_queries.batches_with_status(c, statuses))

    async def transition(
        self,
        batch_id: str,
        sources: Sequence[str],
        target: str,
        now: int,
        *,
        outcome: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        output_file: FileRecord | None = None,
        error_file: FileRecord | None = None,
    ) -> bool:
        return await self._database.write(
            lambda c: batch_queries.transition(
                c,
                batch_id,
                sources,
                target,
                now,
                outcome=outcome,
                errors=errors,
                output_file=output_file,
                error_file=error_file,
            )
        )

    async def insert_rows(self, batch_id: str, rows: Sequence[NewRow]) -> None:
        await self._database.write(lambda c: row_queries.insert_rows(c, batch_id, rows))

    async def begin_batch(self, batch_id: str, total: int, now: int) -> bool:
        def begin(c: sqlite3.Connection) -> bool:
            if not batch_queries.transition(c, batch_id, ("validating",), "in_progress", now):
                return False
            batch_queries.set_total(c, batch_id, total)
            return True

        return await self._database.write(begin)

    async def remove_rows(self, batch_id: str) -> None:
        await self._database.write(lambda c: row_queries.remove_rows(c, batch_id))

    async def close_batch(
        self, batch_id: str, sources: Sequence[str], target: str, outcome: str, code: str, message: str, now: int
    ) -> dict[str, list[int]] | None:
        """Stop a batch: no open row is left behind. None where it is in another status."""

        def stop(c: sqlite3.Connection) -> dict[str, list[int]] | None:
            if not batch_queries.transition(c, batch_id, sources, target, now, outcome=outcome):
                return None
            return row_queries.close_rows(c, batch_id, code, message)

        return await self._database.write(stop)

    async def outcomes(self, batch_id: str, *, after: int, limit: int) -> list[RowOutcome]:
        return await self._database.read(lambda c: row_queries.outcomes(c, batch_id, after, limit))

    async def backlog(self) -> list[Backlog]:
        return await self._database.read(row_queries.backlog)

    async def held_by(self, ring: str) -> int:
        return await self._database.read(lambda c: row_queries.held_by(c, ring))

    async def lease_rows(
        self,
        ring: str,
        shares: Mapping[str, int],
        max_bytes: int,
        codecs: Sequence[str] = (),
        terms: Sequence[StageTerms] = (),
    ) -> LeaseRecord | None:
        return await self._database.write(lambda c: row_queries.lease_rows(c, ring, shares, max_bytes, codecs, terms))

    async def finish_rows(self, ring: str, results: Sequence[FinishedRow]) -> FinishCounts:
        return await self._database.write(lambda c: row_queries.finish_rows(c, ring, results))

    async def return_rows(self, ring: str, rows: Sequence[ReturnedRow], *, failed: bool) -> list[int]:
        return await self._database.write(lambda c: row_queries.return_rows(c, ring, rows, failed=failed))

    async def count_losses(self, keys: Sequence[int]) -> None:
        await self._database.write(lambda c: row_queries.count_losses(c, keys))

    async def release_lease(self, fence: int, *, failed: bool) -> list[int]:
        return await self._database.write(lambda c: row_queries.release_lease(c, fence, failed=failed))

    async def release_ring(self, ring: str, *, failed: bool) -> list[int]:
        return await self._database.write(lambda c: row_queries.release_ring(c, ring, failed=failed))

    async def release_all(self) -> int:
        return await self._database.write(row_queries.release_all)

    def close(self) -> None:
        self._database.close()
