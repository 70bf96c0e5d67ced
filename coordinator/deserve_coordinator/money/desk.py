"""Where a payer deals with the coordinator: an escrow for a new batch, what is due for it, and vouchers."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from deserve_coordinator.errors import BatchRefused
from deserve_coordinator.money.quotes import Quoting
from deserve_coordinator.money.results_tree import GrowingTree
from deserve_coordinator.money.settlement import Settlement
from deserve_coordinator.store.money_records import EscrowRecord, NewEscrow, VoucherRecord
from deserve_coordinator.store.records import NewBatch
from deserve_ledger.eip712 import recover
from deserve_ledger.errors import BadSignature, ChainUnreachable
from deserve_ledger.identifiers import job_id
from deserve_ledger.messages import Voucher
from deserve_network.money_messages import Prices

__all__ = ["PREPAID", "PaymentDesk", "PaymentOptions"]

PREPAID = "default"
"""The account of who holds the coordinator's API key."""


@dataclass(frozen=True, slots=True)
class PaymentOptions:
    """What a batch's `deserve` object says about money."""

    job_id: bytes | None = None
    max_price: Prices | None = None
    """Margin included, base units per million layer-tokens."""
    max_cost: int | None = None


class PaymentDesk:
    def __init__(self, settlement: Settlement, quoting: Quoting) -> None:
        self._settlement = settlement
        self._store = settlement.store
        self._ledger = settlement.ledger
        self._policy = settlement.policy
        self.quoting = quoting

    async def escrow_for(self, new: NewBatch, options: PaymentOptions) -> NewEscrow:
        """What pays for `new`: the payer's job on the ledger, or the prepaid account. Raises `BatchRefused`."""
        quote = await self.quoting.quote_file(new.input_file_id, new.endpoint, options.max_price)
        spend = quote.at_most if options.max_cost is None else min(options.max_cost, quote.at_most)
        common = {
            "batch_id": new.id,
            "most_prefill": quote.most.prefill,
            "most_decode": quote.most.decode,
            "margin_ppm": quote.margin_ppm,
            "layers": quote.layers,
            "audited": self._policy.audited,
            "exposure": self._policy.exposure,
            "capped": spend < quote.at_most,
        }
        if options.job_id is None:
            return await self._prepaid(new, spend, common)
        return await self._own_job(new, options.job_id, spend, common)

    async def _own_job(self, new: NewBatch, job: bytes, spend: int, common: dict[str, Any]) -> NewEscrow:
        try:
            record = await self._ledger.job(job)
        except ChainUnreachable as error:
            raise BatchRefused(
                f"the ledger cannot be asked just now: {error}", param=None, code="ledger_unreachable", status=503
            ) from error
        if record.payer == bytes(20):
            raise _refused("job_id", "no job of this id is open on the ledger", "job_not_found", 404)
        if record.coordinator != self._ledger.account:
            raise _refused("job_id", "this job is for another coordinator", "wrong_coordinator")
        if record.refunded:
            raise _refused("job_id", "this job's escrow was refunded", "job_refunded")
        left = record.budget - record.drawn
        if left < spend:
            reason = f"this job has {left} base units, and the batch may cost {spend}: state a deserve.max_cost"
            raise _refused("job_id", reason, "insufficient_budget", 402)
        least = new.expires_at + self._policy.deadline_margin_s
        if record.deadline_s < least:
            reason = f"the job's deadline is {record.deadline_s}, the batch needs {least} or later"
            raise _refused("job_id", reason, "deadline_too_early")
        return NewEscrow(
            job_id=job,
            payer=record.payer,
            signer=record.signer,
            budget=record.budget,
            deadline_s=record.deadline_s,
            spend=spend,
            **common,
        )

    async def _prepaid(self, new: NewBatch, spend: int, common: dict[str, Any]) -> NewEscrow:
        salt, us = secrets.token_bytes(32), self._ledger.account
        return NewEscrow(
            job_id=job_id(us, salt),
            payer=us,
            signer=us,
            budget=spend,
            deadline_s=new.expires_at + 2 * self._policy.deadline_margin_s,
            spend=spend,
            account=PREPAID,
            salt=salt,
            **common,
        )

    async def escrow(self, batch_id: str) -> EscrowRecord | None:
        return await self._store.escrow(batch_id)

    async def result_leaves(self, escrow: EscrowRecord, custom_id: str) -> tuple[list[bytes], int | None]:
        """All leaves under the newest results root, and the index of this row's."""
        return await self._store.result_leaves(escrow.job_id, custom_id)

    def view(self, escrow: EscrowRecord) -> dict[str, Any]:
        """What is due for a batch, and everything that its voucher has to say."""
        domain = self._ledger.domain
        return {
            "object": "payment",
            "batch_id": escrow.batch_id,
            "job_id": "0x" + escrow.job_id.hex(),
            "ledger": {
                "chain_id": domain.chain_id,
                "contract": "0x" + domain.contract.hex(),
                "coordinator": "0x" + self._ledger.account.hex(),
            },
            "account": escrow.account,
            "charged": str(escrow.payable),
            "paid": str(escrow.paid),
            "due": str(escrow.unpaid),
            "budget": str(escrow.budget),
            "spends_at_most": str(escrow.spend),
            "deadline_s": escrow.deadline_s,
            "next": {
                "cumulative": str(max(escrow.payable, escrow.paid)),
                "seq": escrow.voucher_seq + 1,
                "results_root": "0x" + GrowingTree.from_bytes(escrow.bills, escrow.peaks).root.hex(),
            },
            "rows_billed": escrow.bills,
            "redeemed": str(escrow.redeemed),
            "state": escrow.state,
            "paused": self._settlement.paused.get(escrow.batch_id),
        }

    async def take(self, escrow: EscrowRecord, voucher: VoucherRecord) -> EscrowRecord:
        """Verify a voucher and keep it, on disk when this returns. Raises `BatchRefused` that names the field."""
        signed = Voucher(escrow.job_id, voucher.cumulative, voucher.seq, voucher.results_root)
        try:
            signer = recover(self._ledger.domain, signed, voucher.signature)
        except BadSignature as error:
            raise BatchRefused(str(error), param="signature", code="invalid_signature") from error
        if signer not in (escrow.signer, escrow.payer):
            message = f"made by 0x{signer.hex()}, who is neither the job's payer nor its session key"
            raise BatchRefused(message, param="signature", code="invalid_signature", status=403)
        if voucher.cumulative > escrow.budget:
            raise BatchRefused(f"above the job's budget of {escrow.budget}", param="cumulative", code="out_of_range")
        if escrow.bills and not await self._store.root_offered(escrow.job_id, voucher.results_root):
            raise BatchRefused("not the root of what was delivered", param="results_root", code="unknown_root")
        if not await self._store.add_voucher(escrow, voucher):
            newest = await self._store.escrow(escrow.batch_id)
            if newest is None or (newest.voucher_seq, newest.paid) != (voucher.seq, voucher.cumulative):
                raise BatchRefused(
                    f"seq {escrow.voucher_seq} for {escrow.paid} is here already",
                    param="seq",
                    code="outdated_voucher",
                    status=409,
                )
        self._settlement.wake()
        again = await self._store.escrow(escrow.batch_id)
        assert again is not None
        return again


def _refused(field: str, message: str, code: str, status: int = 400) -> BatchRefused:
    return BatchRefused(message, param=f"deserve.{field}", code=code, status=status)
