"""What a payer owes by its own reckoning, and what it signs next. Pure.

The coordinator says what it charges. The payer pays no more than what was delivered so far costs at the price that it
agreed to, no more than its budget, and never takes back what it signed: a voucher is the sum of everything before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deserve_client.errors import ClientError
from deserve_ledger.eip712 import Domain
from deserve_ledger.messages import Voucher
from deserve_ledger.prices import Prices

__all__ = ["Agreement", "Bill", "Overcharged", "Signed", "next_voucher", "read_bill"]

NOTHING_SIGNED = bytes(32)


class Overcharged(ClientError):
    """The coordinator asks for what the payer did not agree to; it gets nothing more."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was fixed when the job was opened. Amounts in base units."""

    job_id: bytes
    domain: Domain
    coordinator: bytes
    budget: int
    """Never more than this, whatever is delivered."""
    prices: Prices
    """Per million layer-tokens at most, the coordinator's margin included."""
    layers: int
    """Of the model."""


@dataclass(frozen=True, slots=True)
class Bill:
    """What the coordinator says is due now, and what it says it has delivered."""

    job_id: bytes
    domain: Domain
    coordinator: bytes
    charged: int
    """Since the beginning."""
    paid: int
    seq: int
    """Of the newest voucher that it has."""
    results_root: bytes
    prompt_tokens: int
    completion_tokens: int
    """Of the rows that are delivered."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The newest voucher of this payer."""

    cumulative: int = 0
    seq: int = 0
    results_root: bytes = NOTHING_SIGNED

    def voucher(self, job_id: bytes) -> Voucher:
        return Voucher(job_id, self.cumulative, self.seq, self.results_root)


def read_bill(payment: Mapping[str, Any], usage: Mapping[str, Any]) -> Bill:
    """From GET /v1/batches/{id}/payment and the batch's usage, which must have been read after it.

    Raises `ClientError` for an answer that is none.
    """
    try:
        ledger, following = payment["ledger"], payment["next"]
        return Bill(
            job_id=_bytes(payment["job_id"], 32),
            domain=Domain(int(ledger["chain_id"]), _bytes(ledger["contract"], 20)),
            coordinator=_bytes(ledger["coordinator"], 20),
            charged=int(payment["charged"]),
            paid=int(payment["paid"]),
            seq=int(following["seq"]) - 1,
            results_root=_bytes(following["results_root"], 32),
            prompt_tokens=int(usage["input_tokens"]),
            completion_tokens=int(usage["output_tokens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClientError(f"the coordinator's account of the batch cannot be read: {error!r}") from error


def _bytes(text: str, length: int) -> bytes:
    data = bytes.fromhex(text.removeprefix("0x"))
    if len(data) != length:
        raise ValueError(f"{text[:80]!r} does not have {length} bytes")
    return data


def next_voucher(agreement: Agreement, signed: Signed, bill: Bill) -> Signed | None:
    """What to sign now; None where nothing new is due. Raises `Overcharged` naming the reason."""
    if (bill.job_id, bill.domain, bill.coordinator) != (agreement.job_id, agreement.domain, agreement.coordinator):
        raise Overcharged("the coordinator asks for another job, ledger or account than was agreed")
    if (bill.paid, bill.seq) > (signed.cumulative, signed.seq):
        raise Overcharged(
            f"the coordinator has voucher {bill.seq} for {bill.paid}, and this payer signed {signed.seq}"
            f" for {signed.cumulative}: another process pays with the same key"
        )
    worth = agreement.prices.of(agreement.layers * bill.prompt_tokens, agreement.layers * bill.completion_tokens)
    if bill.charged > worth:
        raise Overcharged(f"charged {bill.charged}, and what was delivered costs {worth} at the agreed price")
    if bill.charged > agreement.budget:
        raise Overcharged(f"charged {bill.charged}, and the budget is {agreement.budget}")
    if bill.charged <= signed.cumulative:
        # A refuted row can make a charge smaller; what was signed stays signed.
        return None
    return Signed(bill.charged, signed.seq + 1, bill.results_root)
