"""What coordinator and node say about money: accounts, prices, work that was signed for, and what is owed for it.

They travel on the control stream and are listed in its table (`control_messages`). Nothing here is verified: who
receives one builds the signed struct of the same name (`deserve_ledger.messages`) from its fields and checks that.
Amounts are base units of the ledger's token in 128 bits, ids and roots 32 bytes, addresses 20.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from deserve_network.schema import Max, Min

__all__ = [
    "MAX_COVERED",
    "MAX_RECEIPTS",
    "Account",
    "CreditNote",
    "LedgerRef",
    "Prices",
    "Receipts",
    "ReceiptsStored",
    "SignedReceipt",
    "WorkLabel",
]

MAX_RECEIPTS = 1024
MAX_COVERED = 4096

Address = Annotated[bytes, Min(20), Max(20)]
Bytes32 = Annotated[bytes, Min(32), Max(32)]
Amount = Annotated[int, Max(2**128 - 1)]
Count = Annotated[int, Min(0)]
Signature = Annotated[bytes, Min(65), Max(65)]
"""r, s, v as `deserve_ledger.eip712` makes them."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who is paid for what this peer does: `BindNode(operator, peer key, nonce)`, signed by both of the node's keys."""

    operator: Address
    receipt_key: Address
    nonce: Count
    receipt_signature: Signature
    """By the receipt key."""
    peer_signature: Annotated[bytes, Min(64), Max(64)]
    """Ed25519 by the libp2p key over the same EIP-712 digest."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Base units per million layer-tokens that a node asks at least."""

    prefill: Amount = 0
    decode: Amount = 0


@dataclass(frozen=True, slots=True)
class LedgerRef:
    """The ledger that a coordinator pays through, and its account there."""

    chain_id: Count
    contract: Address
    coordinator: Address


@dataclass(frozen=True, slots=True)
class WorkLabel:
    """What a row's work is booked under. The head adds the attempts of its own to `attempt`."""

    job_id: Bytes32
    row: int
    lease: Count
    attempt: Count = 0


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """One stage's part of one chunk: the parts of its work id, its `WorkReceipt`, and what the roots are made of."""

    job_id: Bytes32
    ring: Annotated[str, Max(64)]
    epoch: Count
    lease: Count
    attempt: Count
    stage: Count
    chunk: Count
    node_id: Bytes32
    in_root: Bytes32
    out_root: Bytes32
    units: Count
    """Layer-tokens."""
    signature: Signature
    wire_root: Bytes32
    print_root: Bytes32
    prefill_units: Count = 0
    """Those of `units` that are of prompts; the rest were drawn."""
    first_row: int = 0
    last_row: int = 0
    """Smallest and largest row key among them."""
    rows: Count = 0


@dataclass(frozen=True, slots=True)
class Receipts:
    """Node to coordinator at the end of a chunk. Repeated verbatim until acknowledged."""

    report: Count
    """Grows by one a report."""
    receipts: Annotated[tuple[SignedReceipt, ...], Max(MAX_RECEIPTS)]


@dataclass(frozen=True, slots=True)
class ReceiptsStored:
    """Coordinator to node after the durable commit."""

    report: Count


@dataclass(frozen=True, slots=True)
class CreditNote:
    """Coordinator to node: a `Credit`, signed. The node has it on disk before it computes on."""

    coordinator: Address
    node_id: Bytes32
    cumulative: Amount
    seq: Count
    receipts_root: Bytes32
    signature: Signature
    covers: Annotated[tuple[Bytes32, ...], Max(MAX_COVERED)] = ()
    """Work ids that are settled by it and by no earlier one: what was delivered of them is in `cumulative` or in
    `held`, and nothing further comes of the rest. A node waits for it once the rows have left the ring."""
    held: Amount = 0
    """Earned, and held back until audits are decided."""
