"""Takes receipts in: whose they are, whether they are signed, whether they can be of this ring at all.

What a receipt says about its neighbours is compared in the store (`store.receipt_queries`), which has theirs as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.money.registry import NodeAccount
from deserve_coordinator.store.money import MoneyStore
from deserve_coordinator.store.money_records import ReceiptRecord
from deserve_ledger.calls import SlashNode
from deserve_ledger.commitments import root_of
from deserve_ledger.eip712 import Domain, recover
from deserve_ledger.errors import BadSignature
from deserve_ledger.identifiers import Work, ring_key
from deserve_ledger.messages import WorkReceipt
from deserve_network.money_messages import Receipts, SignedReceipt

__all__ = ["ReceiptCounts", "ReceiptDesk"]

log = logging.getLogger(__name__)


@dataclass
class ReceiptCounts:
    """Totals since the start, for /metrics."""

    stored: int = 0
    duplicates: int = 0
    broken: int = 0
    contradictions: int = 0


class ReceiptDesk:
    """`on_stored` is called when receipts came in, `on_fraud` with the call that slashes who contradicted itself."""

    def __init__(
        self,
        store: MoneyStore,
        domain: Domain,
        *,
        on_stored: Callable[[], None],
        on_fraud: Callable[[SlashNode], None],
    ) -> None:
        self._store = store
        self._domain = domain
        self._on_stored = on_stored
        self._on_fraud = on_fraud
        self.counts = ReceiptCounts()

    async def take(self, account: NodeAccount, message: Receipts) -> None:
        """Returns once all of them are on disk. Raises `ProtocolViolation` that names what is wrong with one."""
        records = await asyncio.to_thread(self._verify, account, message.receipts)
        places = {(record.ring, record.epoch, record.stage): record for record in records}
        for ring, epoch, stage in places:
            found = await self._store.stage_of(ring, epoch, stage)
            if found is None or found[0] != account.node_id:
                raise ProtocolViolation("receipts.stage", f"stage {stage} of {ring}/{epoch} is not this node's")
        outcome = await self._store.add_receipts(records)
        self.counts.stored += outcome.stored
        self.counts.duplicates += outcome.duplicate
        self.counts.broken += outcome.broken
        if outcome.broken:
            log.warning("%d receipts differ from what their neighbour signed", outcome.broken)
        for first, second in outcome.contradictions:
            self.counts.contradictions += 1
            log.critical("node %s signed two receipts for work %s", first.node_id.hex(), first.work_id.hex())
            self._on_fraud(_slash(first, second))
        if outcome.stored:
            self._on_stored()

    def _verify(self, account: NodeAccount, receipts: Sequence[SignedReceipt]) -> list[ReceiptRecord]:
        return [self._verify_one(account, receipt) for receipt in receipts]

    def _verify_one(self, account: NodeAccount, receipt: SignedReceipt) -> ReceiptRecord:
        if receipt.node_id != account.node_id:
            raise ProtocolViolation("receipts.node_id", "a node signs for itself only")
        if receipt.out_root != root_of(receipt.wire_root, receipt.print_root):
            raise ProtocolViolation("receipts.out_root", "it is not the hash of wire_root and print_root")
        if receipt.prefill_units > receipt.units:
            raise ProtocolViolation("receipts.prefill_units", "more than all units")
        work = _work(receipt)
        signed = WorkReceipt(work.work_id, receipt.node_id, receipt.in_root, receipt.out_root, receipt.units)
        try:
            signer = recover(self._domain, signed, receipt.signature)
        except BadSignature as error:
            raise ProtocolViolation("receipts.signature", str(error)) from error
        if signer != account.receipt_key:
            raise ProtocolViolation("receipts.signature", "not made by this node's receipt key")
        shared = {
            name: getattr(receipt, name)
            for name in ReceiptRecord.__dataclass_fields__
            if name in SignedReceipt.__dataclass_fields__
        }
        return ReceiptRecord(work_id=work.work_id, **shared)


def _work(receipt: SignedReceipt | ReceiptRecord) -> Work:
    return Work(
        receipt.job_id,
        ring_key(receipt.ring),
        receipt.epoch,
        receipt.lease,
        receipt.attempt,
        receipt.stage,
        receipt.chunk,
    )


def _slash(first: ReceiptRecord, second: ReceiptRecord) -> SlashNode:
    one, other = (
        WorkReceipt(record.work_id, record.node_id, record.in_root, record.out_root, record.units)
        for record in (first, second)
    )
    return SlashNode(_work(first), one, first.signature, other, second.signature)
