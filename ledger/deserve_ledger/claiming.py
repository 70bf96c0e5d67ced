"""Redeems credits that pay: of each (coordinator, node) the newest, where something of it is unpaid and covered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deserve_ledger.calls import ClaimCredit
from deserve_ledger.credit_file import SignedCredit
from deserve_ledger.eip712 import Domain, recover
from deserve_ledger.errors import BadSignature
from deserve_ledger.interface import Ledger

__all__ = ["Claimed", "newest_credits", "redeem"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """Base units: what one (coordinator, node) has `paid` just now, and what it still `owes` beyond its reservation."""

    coordinator: bytes
    node_id: bytes
    paid: int
    owes: int


def newest_credits(domain: Domain, credits: Iterable[SignedCredit]) -> list[SignedCredit]:
    """The largest of each (coordinator, node): it holds all the others. Raises `BadSignature` for a credit that its
    coordinator did not sign for this ledger."""
    newest: dict[tuple[bytes, bytes], SignedCredit] = {}
    for one in credits:
        signer = recover(domain, one.credit, one.signature)
        if signer != one.credit.coordinator:
            raise BadSignature(
                f"credit {one.credit.seq} for node 0x{one.credit.node_id.hex()} is signed by 0x{signer.hex()} or for"
                f" another ledger, not by its coordinator 0x{one.credit.coordinator.hex()} for this one"
            )
        place = one.credit.coordinator, one.credit.node_id
        if place not in newest or newest[place].credit.cumulative < one.credit.cumulative:
            newest[place] = one
    return list(newest.values())


async def redeem(ledger: Ledger, one: SignedCredit) -> Claimed:
    """Claim it, unless it would pay nothing. Raises what `submit` raises."""
    credit = one.credit
    before = await ledger.reservation(credit.coordinator, credit.node_id)
    unpaid = max(0, credit.cumulative - before.claimed)
    if not min(unpaid, before.amount):
        return Claimed(credit.coordinator, credit.node_id, 0, unpaid)
    settled = await ledger.submit(ClaimCredit(credit, one.signature))
    paid = sum(int(event.fields["amount"]) for event in settled.events if event.name == "Claimed")
    return Claimed(credit.coordinator, credit.node_id, paid, max(0, unpaid - paid))
