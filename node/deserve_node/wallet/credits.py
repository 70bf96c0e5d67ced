"""Whether a credit may be believed. Pure: what was kept before is an argument."""

from __future__ import annotations

from deserve_ledger.credit_file import SignedCredit
from deserve_ledger.eip712 import recover
from deserve_ledger.errors import LedgerError
from deserve_ledger.messages import Credit
from deserve_network.money_messages import CreditNote
from deserve_node.wallet.errors import CreditForged, CreditRefused
from deserve_node.wallet.store import Debtor

__all__ = ["check_credit", "signed_credit"]


def signed_credit(note: CreditNote) -> SignedCredit:
    """What a note is about, unchecked."""
    credit = Credit(note.coordinator, note.node_id, note.cumulative, note.seq, note.receipts_root)
    return SignedCredit(credit, note.signature)


def check_credit(
    note: CreditNote, debtor: Debtor, same_number: SignedCredit | None, newest: SignedCredit | None
) -> SignedCredit:
    """The credit in `note`, where the debtor signed it and amounts grow with numbers. One that is known is sound again,
    and one that was lost on its way may come late.

    `same_number` is what is kept under its number. Raises `CreditForged` where that differs, else `CreditRefused`
    naming the field.
    """
    if note.coordinator != debtor.coordinator:
        raise CreditRefused(f"coordinator: 0x{note.coordinator.hex()} is not who welcomed this node")
    if note.node_id != debtor.node_id:
        raise CreditRefused(f"node_id: {note.node_id.hex()} is not this node")
    signed = signed_credit(note)
    credit = signed.credit
    try:
        signer = recover(debtor.domain, credit, note.signature)
    except LedgerError as error:
        raise CreditRefused(f"signature: {error}") from error
    if signer != debtor.coordinator:
        raise CreditRefused(f"signature: made by 0x{signer.hex()}, not by the coordinator")
    if same_number is not None:
        if same_number.credit != credit:
            raise CreditForged(f"seq: the coordinator signed two contents under number {credit.seq}")
        return same_number
    if newest is not None:
        before, after = sorted((newest.credit, credit), key=lambda one: one.seq)
        if before.cumulative > after.cumulative:
            raise CreditRefused(
                f"cumulative: {before.cumulative} under number {before.seq}, and {after.cumulative} under {after.seq}"
            )
    return signed
