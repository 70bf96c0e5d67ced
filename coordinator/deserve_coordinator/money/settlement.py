"""Keeps the money moving: credits as soon as they are due, and, apart from them, whatever has to wait for the ledger.

The two run side by side, because a transaction may take a minute and a node waits for its credit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from deserve_coordinator.money.crediting import Crediting
from deserve_coordinator.money.exposure import paused_for
from deserve_coordinator.money.ledger_work import LedgerWork
from deserve_coordinator.money.policy import MoneyPolicy
from deserve_coordinator.money.receipts import ReceiptDesk
from deserve_coordinator.money.registry import NodeAccount, Registry
from deserve_coordinator.money.results_tree import GrowingTree
from deserve_coordinator.store.money import MoneyStore
from deserve_coordinator.store.money_records import EscrowRecord, VoucherRecord
from deserve_ledger.calls import SlashNode
from deserve_ledger.eip712 import sign
from deserve_ledger.errors import LedgerError, Refused
from deserve_ledger.interface import Ledger
from deserve_ledger.keystore import Key
from deserve_ledger.messages import Voucher
from deserve_network.control_messages import Offer
from deserve_network.money_messages import CreditNote, LedgerRef, Receipts

__all__ = ["Settlement"]

log = logging.getLogger(__name__)


class Settlement:
    """Owns what a coordinator does about money while it runs. `clock` gives Unix seconds.

    `send(node_id, note)` hands a note to the node's session; `nodes()` are the accounts of nodes that are connected.
    """

    def __init__(
        self,
        ledger: Ledger,
        key: Key,
        store: MoneyStore,
        policy: MoneyPolicy,
        *,
        clock: Callable[[], float],
        send: Callable[[bytes, CreditNote], bool],
        nodes: Callable[[], dict[bytes, NodeAccount]],
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger = ledger
        self.store = store
        self.policy = policy
        self.nodes = nodes
        self.registry = Registry(ledger)
        self.crediting = Crediting(store, ledger.domain, key, send)
        self.work = LedgerWork(ledger, store, policy, clock=clock, on_open=on_open)
        self.receipts = ReceiptDesk(store, ledger.domain, on_stored=self.wake, on_fraud=self._frauds_append)
        self.paused: dict[str, str] = {}
        """Batches that get no rows, and why."""
        self.alarms = 0
        self.failures = 0
        self._key = key
        self._clock = clock
        self._frauds: list[SlashNode] = []
        self._arrived: list[bytes] = []
        self._wake = asyncio.Event()
        self._due_s: dict[str, float] = {}

    @property
    def ref(self) -> LedgerRef:
        return self.registry.ref

    def wake(self) -> None:
        """Rows, receipts, vouchers or audits came in: look now."""
        self._wake.set()

    def _frauds_append(self, call: SlashNode) -> None:
        self._frauds.append(call)

    async def admit(self, peer_id: str, offer: Offer) -> NodeAccount:
        """Raises `ProtocolViolation` for a node that cannot be paid."""
        return await self.registry.admit(peer_id, offer.account, offer.prices)

    def arrived(self, account: NodeAccount) -> None:
        """A node's session has begun."""
        self._arrived.append(account.node_id)
        self.wake()

    async def take_receipts(self, account: NodeAccount, message: Receipts) -> None:
        await self.receipts.take(account, message)

    async def decided(self, rows: list[int], *, refuted: bool = False) -> None:
        """No audit of these rows is open any more; `refuted`: one of them failed for good."""
        await self.store.decide(rows, refuted=refuted)
        self.wake()

    async def run(self, poll_s: float = 0.5) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_credits(poll_s))
            tasks.create_task(self._run_ledger(poll_s))

    async def _run_credits(self, poll_s: float) -> None:
        while True:
            self._wake.clear()
            await self._guarded("credits", self.credit)
            # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s):
                    await self._wake.wait()

    async def _run_ledger(self, poll_s: float) -> None:
        while True:
            await self.settle()
            await asyncio.sleep(poll_s)

    async def credit(self) -> None:
        """Sign what is due, both ways where the payer's account is with us, and see whose payment is missing."""
        escrows = await self.store.open_escrows()
        for over in self.paused.keys() - {found.escrow.batch_id for found in escrows}:
            del self.paused[over]
        for found in escrows:
            escrow = found.escrow
            if escrow.account is not None and escrow.state == "open" and escrow.unpaid:
                await self._pay_ourselves(escrow)
            reason = paused_for(escrow, found.leased, found.pending) if found.status == "in_progress" else None
            self._note_pause(escrow, reason)
        arrived, self._arrived = self._arrived, []
        for node_id in arrived:
            await self.crediting.greet(node_id)
        await self.crediting.step()

    async def _pay_ourselves(self, escrow: EscrowRecord) -> None:
        root = GrowingTree.from_bytes(escrow.bills, escrow.peaks).root
        voucher = Voucher(escrow.job_id, escrow.payable, escrow.voucher_seq + 1, root)
        signature = sign(self._key.secret, self.ledger.domain, voucher)
        await self.store.add_voucher(escrow, VoucherRecord(voucher.seq, voucher.cumulative, root, signature))

    def _note_pause(self, escrow: EscrowRecord, reason: str | None) -> None:
        before = self.paused.get(escrow.batch_id)
        if reason == before:
            return
        if reason is None:
            del self.paused[escrow.batch_id]
            log.info("batch %s goes on", escrow.batch_id)
            return
        self.paused[escrow.batch_id] = reason
        self.alarms += 1
        log.warning(
            "batch %s waits (%s): charged %d, paid %d, spends %d at most",
            escrow.batch_id,
            reason,
            escrow.charged,
            escrow.paid,
            escrow.spend,
        )

    async def settle(self) -> None:
        """One round on the ledger."""
        await self._guarded("jobs", self.work.open_jobs)
        await self._guarded("reservations", lambda: self.work.reserve(self.nodes()))
        await self._every("anchor", self.policy.anchor_s, self.work.anchor)
        await self._guarded("vouchers", self.work.collect)
        await self._every("epoch", self.policy.epoch_s, self.work.post_epoch)
        await self._guarded("frauds", self._slash)

    async def _slash(self) -> None:
        while self._frauds:
            try:
                await self.ledger.submit(self._frauds[0])
            except Refused as refused:
                log.warning("node %s was not slashed: %s", self._frauds[0].first.node_id.hex(), refused)
            self._frauds.pop(0)

    async def _every(self, name: str, period_s: float, step: Callable[[], Awaitable[bool]]) -> None:
        """A step that is due once a period; one that finds nothing to do looks again in the next round."""

        async def due() -> None:
            if self._clock() >= self._due_s.get(name, 0.0) and await step():
                self._due_s[name] = self._clock() + period_s

        await self._guarded(name, due)

    async def _guarded(self, name: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except LedgerError as error:
            self.failures += 1
            log.warning("%s cannot be settled, trying again: %s", name, error)
        except Exception:
            self.failures += 1
            log.exception("%s cannot be settled, trying again", name)
