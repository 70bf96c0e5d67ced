"""Pays one job: asks what is due, checks it, writes down what it will sign, signs, hands it over; until the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deserve_client.api import TERMINAL_STATUSES
from deserve_client.errors import ClientError
from deserve_client.paying.charges import next_voucher, read_bill
from deserve_client.paying.purse import Purse
from deserve_ledger.eip712 import sign
from deserve_ledger.keystore import Key

__all__ = ["Coordinator", "Payer", "Progress"]

POLL_S = 1.0

Json = dict[str, Any]


class Coordinator(Protocol):
    """The calls of `CoordinatorClient` that paying needs."""

    async def batch(self, batch_id: str) -> Json: ...
    async def payment(self, batch_id: str) -> Json: ...
    async def pay(self, batch_id: str, voucher: Mapping[str, Any]) -> Json: ...
    async def create_from(self, body: Mapping[str, Any], idempotency_key: str) -> Json: ...


@dataclass(frozen=True, slots=True)
class Progress:
    batch_id: str
    status: str
    charged: int
    signed: int
    """Base units, cumulative."""
    seq: int
    budget: int
    ended: bool
    """Nothing further will be due."""


class Payer:
    """The caller holds the purse. `check_results` is called once, when the batch has ended, before the last payment,
    with the batch and the payment; what it raises keeps that payment back."""

    def __init__(
        self,
        purse: Purse,
        key: Key,
        coordinator: Coordinator,
        *,
        check_results: Callable[[Json, Json], Awaitable[None]] | None = None,
    ) -> None:
        self._purse = purse
        self._key = key
        self._coordinator = coordinator
        self._check_results = check_results
        if purse.order().signer != key.address:
            raise ClientError(f"{purse.folder}: the session key is not the one that the job authorises")

    async def create_batch(self) -> str:
        """The batch that the job pays for, however often this is called. Returns its id."""
        order = self._purse.order()
        if not order.batch_id:
            created = await self._coordinator.create_from(order.batch["body"], order.batch["idempotency_key"])
            order = self._purse.change(batch_id=str(created["id"]))
        return order.batch_id

    async def step(self) -> Progress:
        """Pay what is due now. Raises `Overcharged`, and the client's errors."""
        order, signed = self._purse.order(), self._purse.signed()
        batch_id = await self.create_batch()
        payment = await self._coordinator.payment(batch_id)
        # Read after the payment: usage only grows, so what is charged is never measured against too little.
        batch = await self._coordinator.batch(batch_id)
        bill = read_bill(payment, batch.get("usage") or {})
        due = next_voucher(order.agreement, signed, bill)
        over = batch["status"] in TERMINAL_STATUSES
        if over and due is not None and self._check_results is not None:
            await self._check_results(batch, payment)
        if due is not None:
            self._purse.write_signed(due)
            signed = due
        if signed.seq > bill.seq:
            await self._hand_over(batch_id)
        if over and not order.ended:
            self._purse.change(ended=True)
        return Progress(
            batch_id, batch["status"], bill.charged, signed.cumulative, signed.seq, order.agreement.budget, over
        )

    async def _hand_over(self, batch_id: str) -> None:
        """Sign what is on disk, and nothing else."""
        signed, agreement = self._purse.signed(), self._purse.order().agreement
        signature = sign(self._key.secret, agreement.domain, signed.voucher(agreement.job_id))
        await self._coordinator.pay(
            batch_id,
            {
                "cumulative": str(signed.cumulative),
                "seq": signed.seq,
                "results_root": "0x" + signed.results_root.hex(),
                "signature": "0x" + signature.hex(),
            },
        )

    async def run(self, show: Callable[[Progress], None], *, poll_s: float = POLL_S) -> Progress:
        """Until the batch has ended and is paid."""
        while True:
            progress = await self.step()
            show(progress)
            if progress.ended:
                return progress
            await asyncio.sleep(poll_s)
