"""What a coordinator does on the ledger, each step safe to repeat: its reasons are in the store, its effects are read
from the ledger before it acts, so a crash anywhere in between repeats a question and not a payment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from deserve_coordinator.money.policy import MoneyPolicy
from deserve_coordinator.money.registry import NodeAccount
from deserve_coordinator.money.tariff import whole_earning
from deserve_coordinator.store.money import MoneyStore
from deserve_coordinator.store.money_records import EscrowRecord, OpenEscrow
from deserve_coordinator.store.records import FINAL
from deserve_ledger.calls import OpenJob, PostRoot, RedeemVoucher, Refund, Reserve
from deserve_ledger.errors import Refused
from deserve_ledger.interface import Ledger
from deserve_ledger.messages import Voucher

__all__ = ["ANCHOR_EPOCHS", "LedgerWork"]

log = logging.getLogger(__name__)

ANCHOR_EPOCHS = 1 << 63
"""Anchors of receipts are posted as roots of epochs from here on, credits below: neither can pass for the other, and a
receipt's leaf is no claim's."""
_EVENTS_AT_ONCE = 1000


class LedgerWork:
    """`clock` gives Unix seconds. `on_open` is called when a job of our own can be worked for."""

    def __init__(
        self,
        ledger: Ledger,
        store: MoneyStore,
        policy: MoneyPolicy,
        *,
        clock: Callable[[], float],
        on_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._policy = policy
        self._clock = clock
        self._on_open = on_open
        self.redeemed = 0
        self.short_of_collateral = 0
        """Base units that are missing in our balance to reserve what nodes may expect."""

    async def open_jobs(self) -> None:
        """Escrow what prepaid accounts pay for, as jobs of our own."""
        for found in await self._store.open_escrows():
            escrow = found.escrow
            if escrow.state != "opening" or escrow.salt is None:
                continue
            if (await self._ledger.job(escrow.job_id)).payer != self._ledger.account:
                account = self._ledger.account
                await self._ledger.submit(OpenJob(escrow.salt, account, account, escrow.budget, escrow.deadline_s))
            await self._store.set_state(escrow.batch_id, "open")
            self._on_open()

    async def reserve(self, nodes: Mapping[bytes, NodeAccount]) -> None:
        """Lock for each node what it is owed and has not claimed, and room for work to come at its own price."""
        credited, held = await self._store.credited(), await self._store.held()
        self.short_of_collateral = 0
        for node_id, account in nodes.items():
            room = whole_earning(self._policy.reserve_units * max(account.prices.prefill, account.prices.decode))
            there = await self._ledger.reservation(self._ledger.account, node_id)
            owed = max(0, credited.get(node_id, 0) - there.claimed) + held.get(node_id, 0)
            if there.safe >= owed + room // 2 + room % 2:
                continue
            missing = owed + room - there.safe
            amount = min(missing, await self._ledger.balance(self._ledger.account))
            if amount < missing:
                self.short_of_collateral += missing - amount
                log.error("our balance lacks %d base units of node %s's reserve", missing - amount, node_id.hex())
            if amount:
                await self._ledger.submit(Reserve(node_id, amount))

    async def anchor(self) -> bool:
        """Post the root of receipts that no root holds yet; False where there are none."""
        found = await self._store.open_anchor()
        if found is None:
            return False
        position = await self._post(ANCHOR_EPOCHS + found.number, found.root)
        await self._store.anchor_settled(found.number, position)
        return True

    async def post_epoch(self) -> bool:
        """Post the root of all credits, where one has grown since the last."""
        found = await self._store.open_epoch(self._ledger.account)
        if found is None:
            return False
        await self._post(found.epoch, found.root)
        await self._store.mark_posted(found.epoch, int(self._clock()))
        return True

    async def _post(self, epoch: int, root: bytes) -> int:
        """Position of an event that is not older than the root: what is drawn after it was not known before."""
        if await self._ledger.root(self._ledger.account, epoch) != root:
            settled = await self._ledger.submit(PostRoot(epoch, root))
            return settled.events[-1].position
        after = 0
        while page := await self._ledger.events(after, _EVENTS_AT_ONCE):
            after = page[-1].position
        return after

    async def collect(self) -> None:
        """Redeem vouchers that are worth it or due, and end the escrow of jobs that have ended."""
        for found in await self._store.open_escrows():
            if found.escrow.state == "open":
                await self._redeem(found)

    async def _redeem(self, found: OpenEscrow) -> None:
        escrow, over = found.escrow, found.status in FINAL
        now = await self._ledger.now_s()
        late = now >= escrow.deadline_s - self._policy.deadline_margin_s // 2
        voucher = await self._store.redeemable(escrow)
        fresh = 0 if voucher is None else voucher.cumulative - escrow.redeemed
        worth_it = self._policy.redeem_at_least is not None and fresh >= self._policy.redeem_at_least
        if voucher is not None and fresh > 0 and (over or late or worth_it):
            drawn = (await self._ledger.job(escrow.job_id)).drawn
            if drawn < voucher.cumulative:
                signed = Voucher(escrow.job_id, voucher.cumulative, voucher.seq, voucher.results_root)
                await self._ledger.submit(RedeemVoucher(signed, voucher.signature))
            await self._store.set_redeemed(escrow.batch_id, voucher.cumulative)
            self.redeemed += fresh
            escrow = await self._again(escrow)
        if over and (escrow.redeemed >= escrow.payable or now > escrow.deadline_s):
            await self._refund(escrow)

    async def _again(self, escrow: EscrowRecord) -> EscrowRecord:
        found = await self._store.escrow(escrow.batch_id)
        assert found is not None
        return found

    async def _refund(self, escrow: EscrowRecord) -> None:
        job = await self._ledger.job(escrow.job_id)
        if not job.refunded:
            try:
                await self._ledger.submit(Refund(escrow.job_id))
            except Refused as refused:
                # The payer asked for it at the same moment.
                if not (await self._ledger.job(escrow.job_id)).refunded:
                    raise refused from None
        await self._store.set_state(escrow.batch_id, "refunded")
        log.info("the escrow of batch %s is over: %d of %d drawn", escrow.batch_id, escrow.redeemed, escrow.budget)
