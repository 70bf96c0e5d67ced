"""What the store keeps about money, as frozen records. Amounts are base units, ids 32 bytes, addresses 20."""

from __future__ import annotations

from dataclasses import dataclass

from deserve_coordinator.money.tariff import charge_exact, whole_charge

__all__ = [
    "AnchorRecord",
    "CreditRecord",
    "EpochRecord",
    "EscrowRecord",
    "NewEscrow",
    "OpenEscrow",
    "ReceiptRecord",
    "StoredReceipts",
    "VoucherRecord",
]


@dataclass(frozen=True, slots=True)
class NewEscrow:
    """Who pays for a batch, and how much at most. `account`: the prepaid account, where the job is our own."""

    batch_id: str
    job_id: bytes
    payer: bytes
    signer: bytes
    budget: int
    deadline_s: int
    spend: int
    """No row is handed out with which more than this could be charged."""
    most_prefill: int
    most_decode: int
    """A node may ask so much at most, per million layer-tokens."""
    margin_ppm: int
    layers: int
    """Of the whole model."""
    audited: bool = False
    capped: bool = False
    """Whether `spend` is less than the quote of all its rows."""
    exposure: int | None = None
    account: str | None = None
    salt: bytes | None = None


@dataclass(frozen=True, slots=True)
class EscrowRecord:
    batch_id: str
    job_id: bytes
    payer: bytes
    signer: bytes
    account: str | None
    salt: bytes | None
    budget: int
    deadline_s: int
    spend: int
    exposure: int | None
    most_prefill: int
    most_decode: int
    margin_ppm: int
    layers: int
    audited: bool
    capped: bool
    dearest: int
    """Upper bound of what its dearest row is charged."""
    exact: int
    """Of all bills that stand, see `money.tariff`."""
    due_exact: int
    """Of those whose audits allow it."""
    covered_exact: int
    """Of those that vouchers pay for."""
    rewards: int
    """Micros given to auditors, out of the margin."""
    bills: int
    peaks: bytes
    paid: int
    """By the newest voucher."""
    voucher_seq: int
    redeemed: int
    state: str
    """opening (a job of our own, not on the ledger yet), open, refunded."""

    @property
    def charged(self) -> int:
        """For all rows that were delivered and stand."""
        return min(whole_charge(self.exact), self.spend)

    @property
    def payable(self) -> int:
        """What of it the payer is asked for by now."""
        return min(whole_charge(self.due_exact), self.spend)

    @property
    def unpaid(self) -> int:
        return max(0, self.payable - self.paid)

    def chunk_cost(self, rows: int, tokens: int) -> int:
        """What `rows` rows cost for `tokens` drawn tokens each, at the job's highest price. Rounded up."""
        return whole_charge(charge_exact(rows * tokens * self.layers * self.most_decode, self.margin_ppm)) + 1

    def admits(self, prefill: int, decode: int) -> bool:
        return prefill <= self.most_prefill and decode <= self.most_decode


@dataclass(frozen=True, slots=True)
class OpenEscrow:
    """One that is not refunded, with its batch's status and open rows."""

    escrow: EscrowRecord
    status: str
    leased: int
    pending: int


@dataclass(frozen=True, slots=True)
class VoucherRecord:
    seq: int
    cumulative: int
    results_root: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class CreditRecord:
    node_id: bytes
    seq: int
    cumulative: int
    receipts_root: bytes
    covers: tuple[bytes, ...] = ()
    """Work ids of the receipts that it covers and no earlier one does."""
    held: int = 0
    """Earned, and in no credit yet."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Of settlement: every node's credit, under one root. `posted_at` in Unix seconds, None until it is settled."""

    epoch: int
    root: bytes
    posted_at: int | None
    leaves: tuple[tuple[bytes, int], ...] = ()
    """(node id, cumulative)."""


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A verified `WorkReceipt` with the parts of its work id; see `deserve_network.money_messages.SignedReceipt`."""

    work_id: bytes
    node_id: bytes
    job_id: bytes
    ring: str
    epoch: int
    lease: int
    attempt: int
    stage: int
    chunk: int
    in_root: bytes
    out_root: bytes
    units: int
    prefill_units: int
    signature: bytes
    wire_root: bytes
    print_root: bytes
    first_row: int = 0
    last_row: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class StoredReceipts:
    """What became of a report."""

    stored: int = 0
    duplicate: int = 0
    broken: int = 0
    """Receipts whose root is not what the neighbour signed."""
    contradictions: tuple[tuple[ReceiptRecord, ReceiptRecord], ...] = ()
    """Pairs that a node signed for one work with different contents: it can be slashed."""


@dataclass(frozen=True, slots=True)
class AnchorRecord:
    """A root over receipts. `position` is that of its event on the ledger; None until it is settled there."""

    number: int
    root: bytes
    position: int | None
