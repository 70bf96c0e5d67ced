"""The store's part that concerns money: each method as one read or one durable write of `Database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from deserve_coordinator.store import bill_queries, credit_queries, escrow_queries, receipt_queries
from deserve_coordinator.store.database import Database
from deserve_coordinator.store.money_records import (
    AnchorRecord,
    CreditRecord,
    EpochRecord,
    EscrowRecord,
    OpenEscrow,
    ReceiptRecord,
    StoredReceipts,
    VoucherRecord,
)

__all__ = ["MoneyStore"]

T = TypeVar("T")


class MoneyStore:
    """Every method that changes something returns only after the change is durable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._database.read(work)

    async def escrow(self, batch_id: str) -> EscrowRecord | None:
        return await self._read(lambda c: escrow_queries.escrow(c, batch_id))

    async def open_escrows(self) -> list[OpenEscrow]:
        return await self._read(escrow_queries.open_escrows)

    async def set_state(self, batch_id: str, state: str) -> None:
        await self._database.write(lambda c: escrow_queries.set_state(c, batch_id, state))

    async def set_redeemed(self, batch_id: str, amount: int) -> None:
        await self._database.write(lambda c: escrow_queries.set_redeemed(c, batch_id, amount))

    async def add_voucher(self, escrow: EscrowRecord, voucher: VoucherRecord) -> bool:
        """Keep a verified voucher, and let what it covers be credited. False where a newer one is here."""

        def add(c: sqlite3.Connection) -> bool:
            if not escrow_queries.add_voucher(c, escrow, voucher):
                return False
            bill_queries.cover(c, escrow.batch_id)
            return True

        return await self._database.write(add)

    async def redeemable(self, escrow: EscrowRecord) -> VoucherRecord | None:
        return await self._read(lambda c: escrow_queries.redeemable(c, escrow))

    async def root_offered(self, job_id: bytes, root: bytes) -> bool:
        return await self._read(lambda c: bill_queries.root_offered(c, job_id, root))

    async def result_leaves(self, job_id: bytes, custom_id: str) -> tuple[list[bytes], int | None]:
        return await self._read(lambda c: bill_queries.leaves(c, job_id, custom_id))

    async def decide(self, keys: Sequence[int], *, refuted: bool = False) -> None:
        """What audits of these rows came to; rows that are not audited are decided once that is known."""
        decision = bill_queries.refute if refuted else bill_queries.decide
        await self._database.write(lambda c: decision(c, keys))

    async def nodes_due(self) -> list[bytes]:
        return await self._read(credit_queries.nodes_due)

    async def write_credit(self, node_id: bytes) -> CreditRecord | None:
        return await self._database.write(lambda c: credit_queries.write_credit(c, node_id))

    async def unsent_credits(self, node_id: bytes) -> list[CreditRecord]:
        return await self._read(lambda c: credit_queries.unsent_credits(c, node_id))

    async def mark_sent(self, node_id: bytes, seq: int) -> None:
        await self._database.write(lambda c: credit_queries.mark_sent(c, node_id, seq))

    async def credited(self) -> dict[bytes, int]:
        """Base units by node id."""
        return await self._read(credit_queries.credited)

    async def held(self) -> dict[bytes, int]:
        """Base units by node id that are earned and in no credit yet."""
        return await self._read(credit_queries.held)

    async def open_epoch(self, coordinator: bytes) -> EpochRecord | None:
        return await self._database.write(lambda c: credit_queries.open_epoch(c, coordinator))

    async def mark_posted(self, epoch: int, now: int) -> None:
        await self._database.write(lambda c: credit_queries.mark_posted(c, epoch, now))

    async def epoch(self, number: int) -> EpochRecord | None:
        return await self._read(lambda c: credit_queries.epoch(c, number))

    async def newest_epoch(self) -> int:
        """The last one that is posted; 0 before there is one."""
        return await self._read(credit_queries.newest_epoch)

    async def stage_of(self, ring: str, epoch: int, stage: int) -> tuple[bytes, int] | None:
        return await self._read(lambda c: receipt_queries.stage_of(c, ring, epoch, stage))

    async def add_receipts(self, receipts: Sequence[ReceiptRecord]) -> StoredReceipts:
        return await self._database.write(lambda c: receipt_queries.add_receipts(c, receipts))

    async def open_anchor(self) -> AnchorRecord | None:
        return await self._database.write(receipt_queries.open_anchor)

    async def anchor_settled(self, number: int, position: int) -> None:
        await self._database.write(lambda c: receipt_queries.anchor_settled(c, number, position))

    async def anchored_receipts(self, number: int) -> tuple[AnchorRecord, list[ReceiptRecord]] | None:
        return await self._read(lambda c: receipt_queries.anchored_receipts(c, number))

    async def balance(self, account: str) -> int | None:
        return await self._read(lambda c: escrow_queries.balance(c, account))

    async def credit_account(self, account: str, amount: int) -> int:
        return await self._database.write(lambda c: escrow_queries.credit_account(c, account, amount))
