"""SQL over escrows, their vouchers, and prepaid accounts."""

from __future__ import annotations

import sqlite3
from typing import Any

from deserve_coordinator.errors import BatchRefused
from deserve_coordinator.store.money_records import EscrowRecord, NewEscrow, OpenEscrow, VoucherRecord

__all__ = [
    "add_voucher",
    "balance",
    "create",
    "credit_account",
    "escrow",
    "escrow_of",
    "note_dearest",
    "open_escrows",
    "redeemable",
    "set_redeemed",
    "set_state",
]

_FIELDS = tuple(EscrowRecord.__dataclass_fields__)
_LIMITS = ("budget", "spend", "most_prefill", "most_decode", "dearest")
_SUMS = ("exact", "due_exact", "covered_exact", "rewards", "paid", "redeemed")
_AMOUNTS = frozenset(_LIMITS + _SUMS)


def escrow_of(row: sqlite3.Row) -> EscrowRecord:
    """Of a row with all columns of `escrows`."""
    values: dict[str, Any] = {name: int(row[name]) if name in _AMOUNTS else row[name] for name in _FIELDS}
    values["exposure"] = None if row["exposure"] is None else int(row["exposure"])
    values |= {name: bool(row[name]) for name in ("audited", "capped")}
    return EscrowRecord(**values)


def create(c: sqlite3.Connection, new: NewEscrow) -> None:
    """Bind a job of the ledger to a new batch, and hold its budget where a prepaid account pays.

    Raises `BatchRefused` where the job pays for another batch already, or the account has too little.
    """
    if c.execute("SELECT 1 FROM escrows WHERE job_id = ?", (new.job_id,)).fetchone() is not None:
        raise BatchRefused(
            "this job pays for another batch already", param="deserve.job_id", code="job_in_use", status=409
        )
    if new.account is not None:
        _hold(c, new.account, new.budget)
    c.execute(
        "INSERT INTO escrows (batch_id, job_id, payer, signer, account, salt, budget, deadline_s, spend, exposure,"
        " most_prefill, most_decode, margin_ppm, layers, audited, capped, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.batch_id,
            new.job_id,
            new.payer,
            new.signer,
            new.account,
            new.salt,
            str(new.budget),
            new.deadline_s,
            str(new.spend),
            None if new.exposure is None else str(new.exposure),
            str(new.most_prefill),
            str(new.most_decode),
            new.margin_ppm,
            new.layers,
            int(new.audited),
            int(new.capped),
            "open" if new.account is None else "opening",
        ),
    )


def escrow(c: sqlite3.Connection, batch_id: str) -> EscrowRecord | None:
    row = c.execute("SELECT * FROM escrows WHERE batch_id = ?", (batch_id,)).fetchone()
    return None if row is None else escrow_of(row)


def open_escrows(c: sqlite3.Connection) -> list[OpenEscrow]:
    """Each that is not refunded."""
    found = c.execute(
        "SELECT e.*, b.status, o.leased, o.pending FROM escrows e JOIN batches b ON b.id = e.batch_id"
        " JOIN open_rows o ON o.batch_id = b.id WHERE e.state != 'refunded'"
    )
    return [OpenEscrow(escrow_of(row), row["status"], row["leased"], row["pending"]) for row in found]


def note_dearest(c: sqlite3.Connection, batch_id: str, amount: int) -> None:
    """One more row was validated, which may cost `amount` at most."""
    found = escrow(c, batch_id)
    if found is not None and amount > found.dearest:
        c.execute("UPDATE escrows SET dearest = ? WHERE batch_id = ?", (str(amount), batch_id))


def set_state(c: sqlite3.Connection, batch_id: str, state: str) -> None:
    """Where a refunded escrow was prepaid, what was not charged is the account's again. Repeating changes nothing."""
    found = escrow(c, batch_id)
    if found is None or found.state in (state, "refunded"):
        return
    if state == "refunded":
        # Nothing can pay for these any more, so they are no longer told to their nodes as held.
        c.execute("UPDATE earnings SET state = 'void' WHERE job_id = ? AND state = 'held'", (found.job_id,))
    if state == "refunded" and found.account is not None:
        credit_account(c, found.account, found.budget - found.redeemed)
    c.execute("UPDATE escrows SET state = ? WHERE batch_id = ?", (state, batch_id))


def set_redeemed(c: sqlite3.Connection, batch_id: str, amount: int) -> None:
    c.execute("UPDATE escrows SET redeemed = ? WHERE batch_id = ?", (str(amount), batch_id))


def add_voucher(c: sqlite3.Connection, escrow: EscrowRecord, voucher: VoucherRecord) -> bool:
    """Keep a verified voucher; False where one is here that is as new and as large, so that nothing changes."""
    seq, paid = c.execute("SELECT voucher_seq, paid FROM escrows WHERE job_id = ?", (escrow.job_id,)).fetchone()
    if voucher.seq <= seq or voucher.cumulative < int(paid):
        return False
    c.execute(
        "INSERT INTO vouchers VALUES (?, ?, ?, ?, ?)",
        (escrow.job_id, voucher.seq, str(voucher.cumulative), voucher.results_root, voucher.signature),
    )
    c.execute(
        "UPDATE escrows SET paid = ?, voucher_seq = ? WHERE job_id = ?",
        (str(voucher.cumulative), voucher.seq, escrow.job_id),
    )
    return True


def redeemable(c: sqlite3.Connection, escrow: EscrowRecord) -> VoucherRecord | None:
    """The largest voucher that takes no more than is to be paid: a refuted row may have made the newest too large."""
    for row in c.execute("SELECT * FROM vouchers WHERE job_id = ? ORDER BY seq DESC", (escrow.job_id,)):
        if int(row["cumulative"]) <= escrow.payable:
            return VoucherRecord(row["seq"], int(row["cumulative"]), row["results_root"], row["signature"])
    return None


def balance(c: sqlite3.Connection, name: str) -> int | None:
    """Of a prepaid account, holds deducted; None where there is no such account."""
    row = c.execute("SELECT balance FROM accounts WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row["balance"])


def credit_account(c: sqlite3.Connection, name: str, amount: int) -> int:
    """Add to a prepaid account, made with its first credit; returns the new balance."""
    total = (balance(c, name) or 0) + amount
    c.execute(
        "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET balance = excluded.balance",
        (name, str(total)),
    )
    return total


def _hold(c: sqlite3.Connection, name: str, amount: int) -> None:
    there = balance(c, name) or 0
    if there < amount:
        message = f"the prepaid account {name!r} has {there} base units, and this batch may cost {amount}"
        raise BatchRefused(message, param="deserve.max_cost", code="insufficient_balance", status=402)
    c.execute("UPDATE accounts SET balance = ? WHERE name = ?", (str(there - amount), name))
