"""What an account can ask of a ledger: one frozen dataclass a call, in the contract's order of arguments.

A backend turns a call into a transaction or a journal entry; what it does and when it is refused is the contract's
business (`contracts/DeserveLedger.sol`) and, the same, `embedded.machine`'s. Amounts are base units, times Unix
seconds, ids, roots and keys 32 bytes, addresses 20.
"""

from __future__ import annotations

from dataclasses import dataclass

from deserve_ledger.identifiers import Work
from deserve_ledger.messages import Credit, Voucher, WorkReceipt

__all__ = [
    "AddBond",
    "AddStake",
    "BeginBondRelease",
    "BeginUnbond",
    "Call",
    "Challenge",
    "Claim",
    "ClaimCredit",
    "CommitVote",
    "Deposit",
    "DrawPanel",
    "OpenJob",
    "PostRoot",
    "RedeemVoucher",
    "Refund",
    "RegisterNode",
    "Release",
    "RequestRelease",
    "Reserve",
    "Resolve",
    "RevealVote",
    "SlashCoordinator",
    "SlashNode",
    "Withdraw",
    "WithdrawBond",
    "WithdrawStake",
]


@dataclass(frozen=True, slots=True)
class Deposit:
    """Tokens of the account become its balance here."""

    amount: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Balance becomes the account's tokens again."""

    amount: int


@dataclass(frozen=True, slots=True)
class RegisterNode:
    """The account operates the node with this peer key from now on, with `stake` out of its balance.

    `signature`: `BindNode(account, peer_key, nonce)` by the receipt key.
    """

    peer_key: bytes
    receipt_key: bytes
    stake: int
    nonce: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class AddStake:
    node_id: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class BeginUnbond:
    """The operator wants the whole stake back; the node takes no further part in panels."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class WithdrawStake:
    """Once unbonding is over and no challenge is open, the stake is the operator's balance."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class AddBond:
    """The account vouches as a coordinator with `amount` more of its balance."""

    amount: int


@dataclass(frozen=True, slots=True)
class BeginBondRelease:
    pass


@dataclass(frozen=True, slots=True)
class WithdrawBond:
    pass


@dataclass(frozen=True, slots=True)
class OpenJob:
    """`budget` of the account's balance is escrowed for `coordinator` until `deadline_s`.

    `signer`, the session key, may sign vouchers up to it, and nothing else.
    """

    salt: bytes
    coordinator: bytes
    signer: bytes
    budget: int
    deadline_s: int


@dataclass(frozen=True, slots=True)
class RedeemVoucher:
    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class Refund:
    """What is left of a job's escrow goes back to its payer: once it is overdue, or when its coordinator says so."""

    job_id: bytes


@dataclass(frozen=True, slots=True)
class Reserve:
    """`amount` of the account's balance is collateral for its credits to this node, and for nobody else's."""

    node_id: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class RequestRelease:
    """The account announces that it will take `amount` of a reservation back; the node has time to claim first."""

    node_id: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Release:
    node_id: bytes


@dataclass(frozen=True, slots=True)
class PostRoot:
    """The account, a coordinator, commits to all its credits of an epoch of settlement."""

    epoch: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A node's credit under a posted root is paid to its operator's balance."""

    coordinator: bytes
    epoch: int
    node_id: bytes
    cumulative: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClaimCredit:
    """The same with nothing but the coordinator's signature."""

    credit: Credit
    signature: bytes


@dataclass(frozen=True, slots=True)
class SlashNode:
    """Two receipts of one node for one work that say different things."""

    work: Work
    first: WorkReceipt
    first_signature: bytes
    second: WorkReceipt
    second_signature: bytes


@dataclass(frozen=True, slots=True)
class SlashCoordinator:
    """Two credits of one coordinator under one (node, seq) that say different things."""

    first: Credit
    first_signature: bytes
    second: Credit
    second_signature: bytes


@dataclass(frozen=True, slots=True)
class Challenge:
    """The account doubts a receipt and bonds for it; a panel decides. `evidence` is the hash of what it will show."""

    work: Work
    receipt: WorkReceipt
    signature: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class DrawPanel:
    challenge_id: int


@dataclass(frozen=True, slots=True)
class CommitVote:
    """By the operator of a node of the panel; see `RevealVote` for what the commitment hashes."""

    challenge_id: int
    node_id: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class RevealVote:
    """keccak256(abi.encode(challenge_id, node_id, guilty, salt)) must be what was committed."""

    challenge_id: int
    node_id: bytes
    guilty: bool
    salt: bytes


@dataclass(frozen=True, slots=True)
class Resolve:
    challenge_id: int


Call = (
    Deposit
    | Withdraw
    | RegisterNode
    | AddStake
    | BeginUnbond
    | WithdrawStake
    | AddBond
    | BeginBondRelease
    | WithdrawBond
    | OpenJob
    | RedeemVoucher
    | Refund
    | Reserve
    | RequestRelease
    | Release
    | PostRoot
    | Claim
    | ClaimCredit
    | SlashNode
    | SlashCoordinator
    | Challenge
    | DrawPanel
    | CommitVote
    | RevealVote
    | Resolve
)
